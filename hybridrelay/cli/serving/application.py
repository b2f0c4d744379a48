"""The hybrid connections of an application that ``hybridrelay run`` has started: a client for each, and listeners.

The listeners were opened before the application was started, and stay the same as long as it runs. So a changed
connection string is used in place, and one with another identity is used by another client at the same listeners.
Hybrid connections that are new, or were removed or changed in another way, wait until the application is run again.
What else can be changed is not decided here, but in `client_process`: the options of `OptionParts` and of the dialer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import attrs
import trio

from ..._nursery import FlatNursery
from ...client import Client, ClientConfig, OpenPort
from ...errors import ConfigurationError, HybridRelayError
from ...events.stream import EventStream
from ...security import ConnectionString
from ...security.loading import naming
from ..entries import ANYWHERE, Key
from ..reloading import publish_not_reloaded
from .failures import LastLook
from .plan import Plan, Renew, Replace, Running, Start, Step, Update, Wanted
from .served import LocalPort, Served

__all__ = ["ApplicationService"]


class ApplicationService:
    """The hybrid connections of one application. See `hybridrelay.cli.serving.reloads.Service`.

    Args:
        make_config: makes the configuration of a client.
        events: the stream to which events are published.
        ports: the listeners of each entry. They are closed when nothing is served there any more.
        last_look: see `LastLook`. Whoever calls `apply` excludes it in the meantime.
    """

    def __init__(
        self,
        make_config: Callable[[ConnectionString], ClientConfig],
        events: EventStream,
        ports: Mapping[Key, Sequence[OpenPort]],
        *,
        last_look: LastLook,
    ) -> None:
        self._make_config = make_config
        self._events = events
        self._ports = ports
        self._last_look = last_look
        self._served: dict[Key, Served] = {}
        #: The entries that were replaced and may still have open connections, and those that are to replace others.
        self._others: set[Served] = set()
        self._nursery: trio.Nursery | None = None

    @property
    def running(self) -> Mapping[Key, Running]:
        """See `Service.running`."""
        return {key: Running(served.entry, served.string) for key, served in self._served.items()}

    @property
    def clients(self) -> Iterable[Client]:
        """All clients that are open."""
        return [one.client for one in (*self._served.values(), *self._others) if one.client is not None]

    @property
    def fields(self) -> Sequence[tuple[str, str]]:
        """See `Service.fields`."""
        return [
            (one.string.entity_path, ",".join(name for port in self._ports[key] for name in port.names))
            for key, one in self._served.items()
        ]

    def stop(self, grace: float) -> None:
        """Accept no more connections. Those that are open may take `grace` seconds to end."""
        for served in (*self._served.values(), *self._others):
            served.end(grace)

    async def run(
        self, wanted: Sequence[Wanted], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until `stop` is called.

        `task_status.started` is called when the first attempt to connect is over for each hybrid connection, whether
        it has succeeded or not. If every relay refuses a connection string later, its listeners are closed, and
        the others continue.

        Raises:
            HybridRelayError: at the first attempt, every relay refuses a connection string, or what answered was not
                the relay.
        """
        async with FlatNursery() as self._nursery:
            async with FlatNursery() as starting:
                for one in wanted:
                    assert one.string is not None
                    self._served[one.entry.key] = served = Served(one.entry, one.string)
                    # The listeners are already open, so it is enough that no two have the same place.
                    for number, port in enumerate(self._ports[one.entry.key]):
                        served.ports[ANYWHERE, number] = LocalPort(port)
                    starting.start_soon(self._nursery.start, self._serve, served)
            task_status.started()

    async def _serve(self, served: Served, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve one hybrid connection until it ends. The program does not end with the last one, because the
        application is still running."""
        await served.run(
            self._make_config,
            self._events,
            last_look=self._last_look,
            is_last=lambda: False,
            forget=partial(self._forget, served),
            task_status=task_status,
        )

    def _forget(self, served: Served) -> None:
        served.close_ports()
        self._others.discard(served)

    async def apply(self, plan: Plan) -> Sequence[Step]:
        """See `Service.apply`. Only changed connection strings are used.

        Raises:
            ConfigurationError: something is new.
        """
        for step in plan.steps:
            if isinstance(step, Start):
                raise step.entry.error(
                    ConfigurationError(
                        f"{step.string.entity_path} is new, and the application is already running",
                        remedy="run the application again",
                    )
                )
        return [step for step in plan.steps if await self._take(step)]

    async def _take(self, step: Step) -> bool:
        """Take one step. Returns whether it succeeded; if not, the failure was reported."""
        await trio.lowlevel.checkpoint()
        try:
            match step:
                case Update(key, update):
                    served = self._still_served(key, update.string)
                    with naming(key[0]):
                        served.update(update.string)
                case Replace(entry, string):
                    earlier = self._still_served(entry.key, string)
                    with naming(entry.key[0]):
                        if earlier.client is None:  # its last client has failed, or its first one is not open yet
                            earlier.use(string)
                        else:
                            await self._replace(entry.key, Served(earlier.entry, string))
                    if entry != earlier.entry:
                        _publish_too_late()
                case Renew(key, identity):
                    earlier = self._served[key]
                    if earlier.client is None:
                        return earlier.is_over  # otherwise, it is tried again
                    # `Served.string` stays what was read, with which the next reload compares what it reads.
                    read = attrs.evolve(earlier.string, identity=identity)
                    used = attrs.evolve(earlier.client.connection_string, identity=identity)
                    origin = earlier.client.keeper.origin
                    await self._replace(key, Served(earlier.entry, read, next_string=used, origin=origin))
                case _:
                    _publish_too_late()
                    return False
        except HybridRelayError as exc:
            if isinstance(step, Renew):
                name = step.identity.details.name.connection_name
                text = f"the renewed identity of {name} cannot be used yet: {exc}"
                exc = ConfigurationError(text, remedy=exc.remedy)
            publish_not_reloaded(exc)
            return False
        return True

    def _still_served(self, key: Key, string: ConnectionString) -> Served:
        """Return what serves an entry. If it has ended, note the connection string, so that this is reported once.

        Raises:
            ConfigurationError: it has ended.
        """
        served = self._served[key]
        if served.is_over:
            served.string = string
            text = f"{key[0]} was changed, but is not served any more, because relays have refused it"
            raise ConfigurationError(text, remedy="run the application again")
        return served

    async def _replace(self, key: Key, served: Served) -> None:
        """Serve a hybrid connection with another client. It gets the listeners of the earlier one, whose open
        connections continue.

        Raises:
            HybridRelayError: it cannot start. The earlier one continues.
        """
        earlier = self._served[key]
        self._others.add(served)  # so that it ends if the application ends in the meantime
        assert self._nursery is not None
        await self._nursery.start(self._serve, served)
        self._others.discard(served)
        self._others.add(earlier)
        self._served[key] = served
        await served.take_ports(earlier)
        earlier.end(math.inf)

    def refresh(self, keys: Iterable[Key]) -> None:
        """See `Service.refresh`. Never called, because SIGHUP is passed on to the application."""


def _publish_too_late() -> None:
    text = "hybrid connections were added, removed or changed in a way that a running application cannot use"
    publish_not_reloaded(ConfigurationError(text, remedy="run the application again"))
