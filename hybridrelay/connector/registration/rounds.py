"""The requests that register everything over a control channel: one round after the other, and one request at a time.

A registration is asked for with its present connection string, and, where the relay refuses that, with the one that
the relay has accepted before.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections import deque

import attrs

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

    #: The channel is new, and registers everything.
    TAKE_OVER = "take over"
    #: Registrations are renewed, and what was refused is asked again.
    RENEW = "renew"


@attrs.frozen
class _Request:
    """A request that was made and not answered."""

    number: int
    registration: Registration
    #: The connection string whose key it uses.
    string: ConnectionString


@attrs.define(eq=False)
class Round:
    """Requests to register everything over one channel, one after the other."""

    channel: Channel
    purpose: RoundPurpose
    #: Until when what was registered is good.
    until: float = math.inf
    #: What failed, and may succeed soon.
    temporary: HybridRelayError | None = None
    #: A request was made.
    has_asked: bool = False
    #: What has yet to be asked.
    pending: deque[Registration] = attrs.field(factory=deque)
    #: What is being asked.
    request: _Request | None = None
    #: Why the relay has refused the changed string of that registration, while an earlier one is tried.
    rejection: HybridRelayError | None = None

    @property
    def may_begin(self) -> bool:
        """The channel is still in the state for which the round was meant."""
        if self.purpose is RoundPurpose.TAKE_OVER:
            return self.channel.state is ChannelState.TAKING_OVER
        return self.channel.is_serving

    def concerns(self, registration: Registration, now: float) -> bool:
        """Whether the relay is to be asked for it."""
        if registration.asks_again_in(now) > 0:
            return False
        return self.channel.state is not ChannelState.EARLIER or registration.over == self.channel.number


class Rounds:
    """The rounds at one relay. Only one channel registers at a time.

    Args:
        registrations: what is to be registered.
        out: gets commands and events.
    """

    def __init__(self, registrations: Registrations, out: list[Output]) -> None:
        self._registrations = registrations
        self._out = out
        self._present: Round | None = None
        #: They wait for the present one.
        self._waiting: deque[Round] = deque()
        self._numbers = itertools.count(1)
        #: What was asked by which request over which channel, until the place of the answer among the relay's other
        #: messages is known: what it offers afterwards is authorized by that key.
        self._asked: dict[int, tuple[int, Registration, Secret]] = {}

    def next_number(self) -> int:
        """The number of another request."""
        return next(self._numbers)

    def add(self, channel: Channel, purpose: RoundPurpose) -> None:
        """Have everything registered over this channel when its turn has come."""
        self._waiting.append(Round(channel, purpose))

    def forget(self, channel: Channel) -> None:
        """The channel is over."""
        self._asked = {number: what for number, what in self._asked.items() if what[0] != channel.number}
        self._waiting = deque(one for one in self._waiting if one.channel is not channel)
        if self._present is not None and self._present.channel is channel:
            self._present = None

    def advance(self, now: float) -> Round | None:
        """Make the next request, unless one waits for its answer.

        Returns:
            A round in which everything was asked, if there is one; then this has to be called again.
        """
        if self._present is None:
            self._present = self._begin(now)
        present = self._present
        if present is None or present.request is not None:
            return None
        while present.pending:
            registration = present.pending.popleft()
            # It may have been withdrawn meanwhile.
            is_published = self._registrations.get(registration.name) is registration
            if is_published and present.concerns(registration, now):
                self._ask(present, registration, registration.string)
                return None
        self._present = None
        return present

    def _begin(self, now: float) -> Round | None:
        while self._waiting:
            following = self._waiting.popleft()
            if following.may_begin:
                following.until = now + MAX_GRANT
                following.pending.extend(self._registrations.values())
                following.channel.is_stale = False
                return following
        return None

    def _ask(self, present: Round, registration: Registration, string: ConnectionString) -> None:
        number, channel = self.next_number(), present.channel.number
        present.request = _Request(number, registration, string)
        present.has_asked = True
        self._asked[number] = channel, registration, string.key
        self._out.append(commands.RequestRegistration(channel, number, registration.name, string))

    # --- answers

    def confirmed(self, number: int) -> None:
        """What the relay offers from now on is authorized by the key of this request."""
        if asked := self._asked.pop(number, None):
            asked[1].key = asked[2]

    def registered(self, number: int, seconds: float, now: float) -> None:
        """The relay has registered what was asked for, for this time."""
        if (answered := self._take_answer(number)) is None:
            return
        present, request = answered
        channel, registration = present.channel, request.registration
        if (rejection := present.rejection) is not None:  # the earlier string is still good
            present.rejection = None
            present.temporary = present.temporary or rejection
            self._registrations.falls_back(registration, rejection)
        assert channel.route is not None
        self._registrations.succeeded(
            registration, request.string, over=channel.number, route=channel.route.route.name, relay=channel.relay
        )
        present.until = min(present.until, now + seconds)

    def refused(self, number: int, error: HybridRelayError, now: float) -> Round | None:
        """The relay has refused what was asked for.

        Returns:
            The round, if the relay accepts nothing more over its channel, because it knows a later one.
        """
        self._asked.pop(number, None)
        if (answered := self._take_answer(number)) is None:
            return None
        present, request = answered
        registration = request.registration
        if present.rejection is None and registration.earlier is not None and isinstance(error, AuthorizationError):
            # The string was changed while this connector runs. What has worked until now may still be good.
            present.rejection = error
            self._ask(present, registration, registration.earlier)
            return None
        present.rejection = None
        if registration.over in (None, present.channel.number):
            self._registrations.failed(registration, error, now)
        else:
            self._registrations.stays(registration, error)
        if error.reason is Reason.SUPERSEDED:
            self._present = None
            return present
        if not registration.is_refused:
            present.temporary = present.temporary or error
        return None

    def failed(self, number: int) -> Round | None:
        """The request was not answered, and nothing more can be asked over its channel. Returns its round, unless
        that is over."""
        self._asked.pop(number, None)
        answered = self._take_answer(number)
        if answered is None:
            return None
        self._present = None
        return answered[0]

    def same_relay(self, number: int, host: str, now: float) -> None:
        """The request was not made: the hybrid connection is registered at this relay under another host name."""
        self._asked.pop(number, None)
        if (answered := self._take_answer(number)) is not None:
            self._registrations.same_relay(answered[1].registration, host, now)

    def _take_answer(self, number: int) -> tuple[Round, _Request] | None:
        """What a request was about; None if it does not matter any more."""
        present = self._present
        if present is None or present.request is None or present.request.number != number:
            return None
        request, present.request = present.request, None
        return present, request
