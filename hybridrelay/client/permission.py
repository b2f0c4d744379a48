"""What the policy of this machine allows a client."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from ..errors import ConfigurationError
from ..events.policy import ConnectionAllowed, ConnectionDenied, PolicyNotReloaded
from ..events.stream import EventStream
from ..policy import Action, Decision, Resource, WatchedPolicy, denied, resource_of
from ..security import ConnectionString
from ..security.targets import parse_host_target_untrusted

__all__ = ["Permission"]


class Permission:
    """Whether a client may use its hybrid connection, with the local ports of a forward.

    Args:
        policy: the policy of the machine and of further directories.
        events: the stream to which events are published.
        runs_application: whether the client serves an application that ``hybridrelay run`` has started.
        ended: called when the policy no longer allows it.
    """

    def __init__(
        self, policy: WatchedPolicy, events: EventStream, *, runs_application: bool, ended: Callable[[], None]
    ) -> None:
        self._policy = policy
        self._runs_application = runs_application
        self._events = events
        self._ended = ended
        self._is_denied = False
        #: The local addresses of a forward that uses the client.
        self.listening: tuple[str, ...] = ()
        #: The ports of the local name on which the forward could not listen.
        self.left_out: tuple[str, ...] = ()
        self._publish_event()

    def check(self, string: ConnectionString) -> None:
        """Check whether the policy allows using a connection string, with the local addresses of the forward.

        Raises:
            DeniedByPolicy: it does not.
        """
        self._check(string, self.listening)

    def set_listening(self, string: ConnectionString, addresses: Sequence[str], left_out: Sequence[str]) -> None:
        """See `Client.set_listening`. `string`: the connection string in use."""
        # Those at which it listens already are not checked again: `watch` ends what a new policy denies, and a
        # forward that stops must always be able to remove its own.
        if added := [one for one in addresses if one not in self.listening]:
            self._check(string, added)
        self.listening, self.left_out = tuple(addresses), tuple(left_out)

    def _check(self, string: ConnectionString, listening: Sequence[str]) -> None:
        if (denial := self._denial(string, listening)) is not None:
            raise denied(string.entity_path, denial)

    def _denial(self, string: ConnectionString, listening: Sequence[str]) -> Decision | None:
        if self._runs_application:  # its addresses are names of targets, which AllowedForwardAddresses is not about
            action, resources = Action.RUN, [resource_of(string, None)]
        else:
            action, resources = Action.FORWARD, [_resource_of(string, one) for one in listening]
        for resource in resources or [resource_of(string, None)]:
            decision = self._policy.policy.decide(None, action, resource)
            if decision.reason is not None:
                return decision
        return None

    async def watch(self, string: Callable[[], ConnectionString]) -> None:
        """Put changes of the policy into force until cancelled.

        Args:
            string: returns the connection string in use.
        """

        def changed() -> None:
            self._publish_event()
            denial, name = self._denial(string(), self.listening), string().entity_path
            if denial is not None:
                self._events.publish(ConnectionDenied(connection=name, detail=denial.rule, rule=denial.kind))
                self._ended()
            elif self._is_denied:
                self._events.publish(ConnectionAllowed(connection=name))
            self._is_denied = denial is not None

        def failed(error: ConfigurationError) -> None:
            self._events.publish(PolicyNotReloaded(detail=str(error), remedy=error.remedy or ""))

        await self._policy.watch(changed, failed)

    def _publish_event(self) -> None:
        if (event := self._policy.take_event()) is not None:
            self._events.publish(event)


def _resource_of(string: ConnectionString, listening: str) -> Resource:
    """Return the resource for listening at an address, for streams or datagrams, or on a Unix socket
    (``unix:/path``)."""
    if listening.startswith("unix:"):
        return attrs.evolve(resource_of(string, None), path=listening.removeprefix("unix:"))
    return resource_of(string, parse_host_target_untrusted(listening.removesuffix("/udp")))
