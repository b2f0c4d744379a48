"""What a process knows about one relay: which route works, and who it is to the relay."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import partial

import trio

from ..abc import Dial, Transport
from ..errors import AuthorizationError, ConfigurationError, HybridRelayError, RendezvousError
from ..protocol import control
from ..protocol.reasons import Reason
from ..security import ConnectionString, audience_for, make_token
from .control import ControlChannel, Introduction, run_control_channel
from .dialing import dial_directly
from .discovery import AUTO, Candidate, candidates, discover
from .endpoint import RelayEndpoint
from .prober import Prober
from .report import Report

#: Tokens are made anew for each request, so they need to live only as long as a registration (seconds).
TOKEN_SECONDS = 3600.0

_AUTHORIZATION = frozenset(range(Reason.TOKEN_MALFORMED, Reason.NO_LISTENER))
_REMEDIES = {
    Reason.WRONG_KEY: "the key was regenerated or mistyped: fetch the current one ('keys list' on the relay)",
    Reason.KEY_REVOKED: "fetch the current key ('keys list' on the relay), or use the rule's other key",
    Reason.UNKNOWN_RULE: "compare SharedAccessKeyName with 'keys list' on the relay",
    Reason.RIGHT_MISSING: "a connector needs a key with the right Listen, an application one with Send",
    Reason.UNKNOWN_CONNECTION: "compare EntityPath with 'connections list' on the relay; import its relay file there",
    Reason.TOKEN_EXPIRED: "compare the clocks of this machine and the relay",
    Reason.WRONG_AUDIENCE: "Endpoint has to be the host name with which the hybrid connection was created",
    Reason.NO_LISTENER: "start the connector, or see in its log why it is not registered",
}


def new_instance() -> str:
    """An instance id: one for each process, and never again."""
    return secrets.token_hex(16)


def make_connection_token(string: ConnectionString, now: float) -> str:
    """A fresh token for the hybrid connection of `string`. `now` is in seconds since 1970."""
    audience = audience_for(string.host, string.entity_path)
    return make_token(audience, string.key_name, string.key, now + TOKEN_SECONDS)


def failure_error(connection: str, failed: control.Failed) -> HybridRelayError:
    """The exception for a relay's `Failed`."""
    reason = failed.reason
    kind = AuthorizationError if reason in _AUTHORIZATION else RendezvousError
    detail = f" ({failed.detail})" if failed.detail and failed.detail != reason.describe else ""
    return kind(f"{connection}: {reason.describe}{detail}", reason=reason, remedy=_REMEDIES.get(reason))


class RelayLink:
    """One relay, from the dialing side. Remembers the route that worked until somebody says that it no longer does.

    Args:
        endpoint: the relay.
        role: whose process this is.
        instance: this process.
        mode: ``auto`` or the name of the only transport allowed.
        dial: opens TCP connections.
        transports: by name; None means those that are installed.
    """

    def __init__(
        self,
        endpoint: RelayEndpoint,
        role: control.Role,
        *,
        instance: str,
        mode: str = AUTO,
        dial: Dial = dial_directly,
        transports: Mapping[str, Transport] | None = None,
    ) -> None:
        transports = discover() if transports is None else transports
        usable = candidates(transports, mode)
        if all(endpoint.missing_ports(candidate.route) for candidate in usable):
            raise ConfigurationError(
                f"the relay serves no port that mode {mode} could use",
                remedy="choose another mode, or open the ports at the relay (--ports)",
            )
        self.endpoint = endpoint
        self.dial = dial
        self.mode = mode
        #: What the last probing found, or None.
        self.report: Report | None = None
        self._prober = Prober(endpoint, mode=mode, transports=transports, dial=dial)
        self._candidate: Candidate | None = None
        self._role = role
        self._instance = instance
        self._generation = 0
        self._choosing = trio.Lock()

    @property
    def remembers(self) -> bool:
        """A route is known to have worked."""
        return self._candidate is not None

    async def choose(self) -> Candidate:
        """The route to use now; probes where none is remembered.

        Raises:
            RelayUnreachable: nothing works; carries the `report`.
        """
        async with self._choosing:
            if self._candidate is None:
                decision = await self._prober.choose()
                self.report = decision.report
                self._candidate = Candidate(decision.route, decision.transport)
            return self._candidate

    def forget(self) -> None:
        """The route failed: probe before the next use."""
        self._candidate = None

    async def start_control(self, nursery: trio.Nursery) -> ControlChannel:
        """Open a control channel whose tasks run in `nursery`.

        Raises:
            RelayUnreachable, RelayIdentityError: see `run_control_channel`. The route is forgotten then.
        """
        candidate = await self.choose()
        self._generation += 1
        introduction = Introduction(self._role, self._instance, self._generation)
        serve = partial(run_control_channel, self.endpoint, candidate, introduction, dial=self.dial)
        try:
            channel: ControlChannel = await nursery.start(serve)
        except HybridRelayError:
            self.forget()
            raise
        return channel
