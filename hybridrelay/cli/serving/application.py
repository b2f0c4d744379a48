"""The hybrid connections of an application that ``hybridrelay run`` has started: a client for each, and listeners.

The listeners were opened before the application was started, and stay the same as long as it runs. So a changed
connection string is used in place, and everything else that changes takes effect when the application is run again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs
import trio

from ..._nursery import FlatNursery
from ...client import Client, ClientConfig, OpenPort, PortService, keep_connected, open_client
from ...errors import AuthorizationError, ConfigurationError, DeniedByPolicy, HybridRelayError
from ...events.client import ForwardPortClosed
from ...events.stream import EventStream
from ...security import ConnectionString
from ...security.loading import naming
from ..entries import Entry, Key
from ..reloading import publish_not_reloaded
from .plan import Plan, Running, Start, Step, Update, Wanted

__all__ = ["ApplicationService"]


@attrs.define(eq=False)
class _Served:
    """A hybrid connection with its client."""

    entry: Entry
    string: ConnectionString
    ports: Sequence[OpenPort]
    client: Client | None = None


class ApplicationService:
    """The hybrid connections of one application. See `hybridrelay.cli.serving.reloads.Service`.

    Args:
        make_config: makes the configuration of a client.
        events: the stream to which events are published.
        ports: the listeners of each entry. They are closed when nothing is served there any more.
    """

    def __init__(
        self,
        make_config: Callable[[ConnectionString], ClientConfig],
        events: EventStream,
        ports: Mapping[Key, Sequence[OpenPort]],
    ) -> None:
        self._make_config = make_config
        self._events = events
        self._ports = ports
        self._served: dict[Key, _Served] = {}
        self._stop = trio.Event()
        self._grace = math.inf

    @property
    def running(self) -> Mapping[Key, Running]:
        """See `Service.running`."""
        return {key: Running(served.entry, served.string) for key, served in self._served.items()}

    @property
    def clients(self) -> Iterable[Client]:
        """All clients that are open."""
        return [one.client for one in self._served.values() if one.client is not None]

    @property
    def fields(self) -> Sequence[tuple[str, str]]:
        """See `Service.fields`."""
        return [
            (one.string.entity_path, ",".join(name for port in one.ports for name in port.names))
            for one in self._served.values()
        ]

    def stop(self, grace: float) -> None:
        """Accept no more connections. Those that are open may take `grace` seconds to end."""
        self._grace = grace
        self._stop.set()

    async def run(
        self, wanted: Sequence[Wanted], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until `stop` is called.

        `task_status.started` is called when the first attempt to connect is over for each hybrid connection, whether
        it has succeeded or not. If relays refuse a connection string later, its listeners are closed, and the others
        continue.

        Raises:
            HybridRelayError: before that, a relay refuses a connection string, or is not the expected one.
        """
        async with FlatNursery() as nursery:
            async with FlatNursery() as starting:
                for one in wanted:
                    assert one.string is not None
                    served = _Served(one.entry, one.string, self._ports[one.entry.key])
                    self._served[one.entry.key] = served
                    starting.start_soon(nursery.start, self._serve, served)
            task_status.started()

    async def _serve(self, served: _Served, *, task_status: trio.TaskStatus[None]) -> None:
        has_started = False
        try:
            async with open_client(self._make_config(served.string), events=self._events) as served.client:
                async with FlatNursery() as connecting:
                    await connecting.start(keep_connected, served.client)
                    service = PortService(served.client, served.ports)
                    async with FlatNursery() as serving:
                        await serving.start(service.run)
                        has_started = True
                        task_status.started()
                        await self._stop.wait()
                        service.stop(self._grace)
                    connecting.cancel_scope.cancel()
        except (AuthorizationError, DeniedByPolicy) as exc:
            if not has_started:
                raise
            name, remedy = served.string.entity_path, exc.remedy or ""
            self._events.publish(
                ForwardPortClosed(connection=name, reason=exc.reason, detail=str(exc), remedy=remedy)
            )
        finally:
            served.client = None
            for port in served.ports:
                port.close()

    async def apply(self, plan: Plan) -> Sequence[Step]:
        """See `Service.apply`. Only changed connection strings are used.

        Raises:
            ConfigurationError: something is new.
        """
        for step in plan.steps:
            if isinstance(step, Start):
                raise step.entry.error(
                    ConfigurationError(
                        f"{step.string.entity_path} is new, and the application runs already",
                        remedy="run the application again",
                    )
                )
        done: list[Step] = []
        for step in plan.steps:
            if isinstance(step, Update):
                served = self._served[step.key]
                try:
                    with naming(step.key[0]):
                        if served.client is not None:
                            served.client.update(step.update.string)
                except HybridRelayError as exc:
                    publish_not_reloaded(exc)
                    continue
                served.string = step.update.string
                done.append(step)
            else:
                text = "the configuration of hybrid connections has changed, which takes effect later"
                publish_not_reloaded(ConfigurationError(text, remedy="run the application again"))
        await trio.lowlevel.checkpoint()
        return done

    def refresh(self, keys: Iterable[Key]) -> None:
        """See `Service.refresh`. Nobody asks for it: SIGHUP is the application's own."""
