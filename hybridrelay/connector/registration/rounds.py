"""The requests that register everything over a control channel: one round after the other, and one request at a time.

Each hybrid connection is requested with its current connection string and, if the relay refuses that, with the one
that the relay accepted last.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections import deque

import attrs

from ..._value import Value
from ...errors import AuthorizationError, HybridRelayError
from ...protocol.reasons import Reason
from ...security import ConnectionString, Secret
from . import commands
from .channel import Channel
from .commands import Output
from .entry import Registration
from .registrations import MAX_GRANT, Registrations
from .states import ChannelState

__all__ = ["Round", "RoundPurpose", "Rounds"]


class RoundPurpose(enum.Enum):
    """Why a round of requests is made."""

    #: The channel is new, and takes over all registrations.
    TAKE_OVER = "take over"
    #: Registrations are renewed, and those that were refused are requested again.
    RENEW = "renew"


@attrs.frozen
class _Request(Value):
    """A request that has not been answered yet."""

    number: int
    registration: Registration
    #: The connection string whose key it uses.
    string: ConnectionString


@attrs.define(eq=False)
class Round:
    """A series of requests, one after the other, to register everything over one channel."""

    channel: Channel
    purpose: RoundPurpose
    #: The time until which all registrations of this round are valid.
    until: float = math.inf
    #: The first failure that may be temporary.
    temporary: HybridRelayError | None = None
    #: Whether a request was made.
    has_asked: bool = False
    #: The registrations that have not been requested yet.
    pending: deque[Registration] = attrs.field(factory=deque)
    #: The request that waits for its answer.
    request: _Request | None = None
    #: The relay's refusal of the changed connection string, while the earlier string is tried.
    rejection: HybridRelayError | None = None

    @property
    def may_begin(self) -> bool:
        """Whether the channel is still in the state for which the round was planned."""
        if self.purpose is RoundPurpose.TAKE_OVER:
            return self.channel.state is ChannelState.TAKING_OVER
        return self.channel.is_serving

    def concerns(self, registration: Registration, now: float) -> bool:
        """Return whether to request this registration in this round."""
        if registration.asks_again_in(now) > 0:
            return False
        return self.channel.state is not ChannelState.EARLIER or registration.over == self.channel.number


class Rounds:
    """The rounds at one relay. Only one channel registers at a time.

    Args:
        registrations: the hybrid connections to be registered.
        out: the list to which commands and events are appended.
    """

    def __init__(self, registrations: Registrations, out: list[Output]) -> None:
        self._registrations = registrations
        self._out = out
        self._current: Round | None = None
        #: Rounds that wait for the current one to end.
        self._waiting: deque[Round] = deque()
        self._numbers = itertools.count(1)
        #: For each request: its channel, its registration and its key. Kept until `Confirmed`, because the key
        #: authorizes the offers that arrive after the positive answer.
        self._asked: dict[int, tuple[int, Registration, Secret]] = {}

    def next_number(self) -> int:
        """Return the number for another request."""
        return next(self._numbers)

    def add(self, channel: Channel, purpose: RoundPurpose) -> None:
        """Add a round that registers everything over this channel, after the other rounds."""
        self._waiting.append(Round(channel, purpose))

    def forget(self, channel: Channel) -> None:
        """Drop the rounds and requests of a channel that has ended."""
        self._asked = {number: what for number, what in self._asked.items() if what[0] != channel.number}
        self._waiting = deque(one for one in self._waiting if one.channel is not channel)
        if self._current is not None and self._current.channel is channel:
            self._current = None

    def advance(self, now: float) -> Round | None:
        """Make the next request, unless one is waiting for its answer.

        Returns:
            A round if it is complete now. Then call this again.
        """
        if self._current is None:
            self._current = self._begin(now)
        current = self._current
        if current is None or current.request is not None:
            return None
        while current.pending:
            registration = current.pending.popleft()
            # The hybrid connection may have been withdrawn in the meantime.
            if self._registrations.get(registration.name) is registration and current.concerns(registration, now):
                self._ask(current, registration, registration.string)
                return None
        self._current = None
        return current

    def _begin(self, now: float) -> Round | None:
        while self._waiting:
            following = self._waiting.popleft()
            if following.may_begin:
                following.until = now + MAX_GRANT
                following.pending.extend(self._registrations.values())
                following.channel.is_stale = False
                return following
        return None

    def _ask(self, current: Round, registration: Registration, string: ConnectionString) -> None:
        number, channel = self.next_number(), current.channel.number
        current.request = _Request(number, registration, string)
        current.has_asked = True
        self._asked[number] = channel, registration, string.key
        self._out.append(commands.RequestRegistration(channel, number, registration.name, string))

    # --- answers

    def confirmed(self, number: int) -> None:
        """Note that from now on the key of this request authorizes the relay's offers."""
        if asked := self._asked.pop(number, None):
            asked[1].key = asked[2]

    def registered(self, number: int, seconds: float, now: float) -> None:
        """Note that the relay has granted the request, for this many seconds. A round is valid for `MAX_GRANT` at the
        longest."""
        if (answered := self._take_answer(number)) is None:
            return
        current, request = answered
        channel, registration = current.channel, request.registration
        if registration.name not in self._registrations:  # withdrawn while the relay answered
            withdrawal = self.next_number()
            self._out.append(commands.WithdrawRegistration(channel.number, withdrawal, registration.name))
            return
        if (rejection := current.rejection) is not None:  # the earlier string is still valid
            current.rejection = None
            current.temporary = current.temporary or rejection
            self._registrations.falls_back(registration, rejection)
        assert channel.route is not None
        self._registrations.succeeded(
            registration,
            request.string,
            over=channel.number,
            route=channel.route.route.name,
            relay=channel.relay,
            now=now,
        )
        current.until = min(current.until, now + seconds)

    def refused(self, number: int, error: HybridRelayError, now: float) -> Round | None:
        """Note that the relay has refused the request.

        Returns:
            The round if it is aborted, because the relay has a later channel and accepts nothing more over this one.
        """
        self._asked.pop(number, None)
        if (answered := self._take_answer(number)) is None:
            return None
        current, request = answered
        registration = request.registration
        if current.rejection is None:
            registration.answered = request.string
        if registration.is_untried and isinstance(error, AuthorizationError):
            # The connection string was changed while the relay answered.
            current.rejection = None
            self._ask(current, registration, registration.string)
            return None
        if current.rejection is None and registration.earlier is not None and isinstance(error, AuthorizationError):
            # The connection string was changed while this connector runs. The earlier one may still be valid.
            current.rejection = error
            self._ask(current, registration, registration.earlier)
            return None
        current.rejection = None
        if registration.over in (None, current.channel.number):
            self._registrations.failed(registration, error, now)
        else:
            self._registrations.stays(registration, error)
        if error.reason is Reason.SUPERSEDED:
            self._current = None
            return current
        if not registration.is_refused:
            current.temporary = current.temporary or error
        return None

    def failed(self, number: int) -> Round | None:
        """Note that the request was not answered, so that no more requests can be made over its channel. Returns its
        round, unless that has ended."""
        self._asked.pop(number, None)
        answered = self._take_answer(number)
        if answered is None:
            return None
        self._current = None
        return answered[0]

    def same_relay(self, number: int, host: str, now: float) -> None:
        """Note that the request was not made, because the hybrid connection is registered here under another host
        name."""
        self._asked.pop(number, None)
        if (answered := self._take_answer(number)) is not None:
            self._registrations.same_relay(answered[1].registration, host, now)

    def _take_answer(self, number: int) -> tuple[Round, _Request] | None:
        """Return the round and the request to which an answer belongs; None if the answer is no longer needed."""
        current = self._current
        if current is None or current.request is None or current.request.number != number:
            return None
        request, current.request = current.request, None
        return current, request
