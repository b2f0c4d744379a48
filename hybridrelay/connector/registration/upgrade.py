"""Moving to a better route: first the control channel, by opening its successor, and then the sessions."""

from __future__ import annotations

from ...connectivity.discovery import Candidate
from ...errors import HybridRelayError, RelayUnreachable
from ...events.endpoint import BetterRouteFound
from ...protocol.reasons import Reason
from . import commands
from .channel import Channel, Channels
from .commands import Output

__all__ = ["Upgrade"]


class Upgrade:
    """The move to a better route, if one is in progress.

    Args:
        host: the relay, for events.
        channels: the control channels to it.
        out: the list to which commands and events are appended.
    """

    def __init__(self, host: str, channels: Channels, out: list[Output]) -> None:
        self._host = host
        self._channels = channels
        self._out = out
        #: The route, and the number of the channel that is opened over it.
        self._better: tuple[Candidate, int] | None = None
        #: Whether sessions are to move to the route of the next control channel, because a better route was found
        #: while there was none.
        self._sessions_follow = False

    @property
    def successor(self) -> Channel | None:
        """The channel that will replace the current one, until it has taken over or was given up."""
        return None if self._better is None else self._channels.get(self._better[1])

    def is_successor(self, number: int) -> bool:
        """Return whether this is the number of `successor`, even if that has just ended."""
        return self._better is not None and self._better[1] == number

    def begin(self, route: Candidate) -> None:
        """Move everything to this route: first the control channel, then the sessions."""
        self._out.append(BetterRouteFound(host=self._host, route=route.route.name))
        current = self._channels.current
        if current is None or current.route is None:
            self._sessions_follow = True
            self._out.append(commands.AnswerRoute())
        elif current.route.route.rank <= route.route.rank:
            self._out.append(commands.AnswerRoute(move_sessions=True))
        else:
            self._better = route, self._channels.open(route)

    def took_over(self, channel: Channel) -> None:
        """Note that a channel has become the current one: the successor, or the first one after a time without
        any."""
        if self.is_successor(channel.number):
            self._answer(None)
        if self._sessions_follow and channel.route is not None:
            self._sessions_follow = False
            self._out.append(commands.MoveSessions(channel.route))

    def failed(self, error: HybridRelayError) -> None:
        """Note that the successor could not be opened, or could register nothing."""
        self._answer(error)

    def give_up(self) -> None:
        """Give up the move, if there is one."""
        if self._better is not None:
            self._answer(RelayUnreachable(f"{self._better[0].route.name} was given up", reason=Reason.CANCELLED))

    def _answer(self, error: HybridRelayError | None) -> None:
        self._better = None
        self._out.append(commands.AnswerRoute(error, move_sessions=error is None))
