"""One control channel, as the registration machine sees it, and the requests made over it."""

from __future__ import annotations

import enum
import math
from collections import deque
from functools import partial

import attrs

from ...connectivity.backoff import Backoff
from ...connectivity.discovery import Candidate
from ...errors import HybridRelayError
from ...security import ConnectionString
from .entry import Registration
from .inputs import RelayIdentity
from .states import CHANNELS, ChannelCause, ChannelState

__all__ = ["MAX_NOTICES", "Channel", "Round"]

#: A registration that the relay ends is registered again at once, unless that happened less than this ago (seconds);
#: then the wait grows. Otherwise a relay that registers and ends could keep this process busy.
LOOK_AGAIN_HELD = 60.0
#: `Ended` and `Draining` messages that one control channel may bring in a minute, apart from one for each
#: registration. A relay that sends more is misbehaving: the channel is closed, and the next one waits its turn.
MAX_NOTICES = 60
NOTICE_SECONDS = 60.0


@attrs.define(eq=False)
class Channel:
    """One control channel, from the command to open it until it is over."""

    number: int
    #: Makes its back-offs; see `Machine`.
    _backoff: partial[Backoff]
    state: ChannelState = ChannelState.OPENING
    #: The route over which it goes. Known while it is open.
    route: Candidate | None = None
    relay: RelayIdentity = ("", "")
    #: When to register again what is registered over it; None while that is being done, or never.
    due: float | None = None
    #: Everything is to be registered again before its time.
    is_stale: bool = False
    #: When the relay asked to come back (seconds after the end). Only the first `Draining` counts, so that repeating
    #: it extends nothing.
    retry_after: float | None = None
    #: For what was refused and may be accepted soon.
    retry: Backoff = attrs.field(init=False)
    #: For registrations that the relay ends again and again.
    _look_again: Backoff = attrs.field(init=False)
    _looked_at: float = -math.inf
    #: How many notices came since when; see `MAX_NOTICES`.
    _notices: int = 0
    _notices_since: float = -math.inf

    def __attrs_post_init__(self) -> None:
        self.retry = self._backoff(first_seconds=2.0, max_seconds=30.0)
        self._look_again = self._backoff(held_seconds=LOOK_AGAIN_HELD)

    def move(self, cause: ChannelCause) -> None:
        """Change the state as the table says."""
        self.state = CHANNELS[self.state, cause]
        if not self.is_serving:
            self.due = None

    @property
    def is_open(self) -> bool:
        """It has been opened and has not ended."""
        return self.state not in (ChannelState.OPENING, ChannelState.CLOSED)

    @property
    def is_serving(self) -> bool:
        """Registrations are renewed over it."""
        return self.state in (ChannelState.CURRENT, ChannelState.EARLIER)

    def look_again(self, now: float) -> None:
        """Have everything registered again soon."""
        if self.is_stale:
            return
        self.is_stale = True
        if self.due is not None:
            self._schedule_look(now)

    def schedule(self, now: float, wait: float) -> None:
        """Have everything registered again after `wait` seconds, or earlier if it is stale."""
        if self.is_stale:
            self._schedule_look(now)
        else:
            self.due = now + wait

    def _schedule_look(self, now: float) -> None:
        held = now - self._looked_at
        self._look_again.succeeded(held_seconds=held)
        self.due = self._looked_at = now if held >= LOOK_AGAIN_HELD else now + self._look_again.next_wait()

    def admit_notice(self, now: float, limit: int) -> bool:
        """Count an unsolicited message; False if there were too many within a minute."""
        if now - self._notices_since >= NOTICE_SECONDS:
            self._notices, self._notices_since = 0, now
        self._notices += 1
        return self._notices <= limit


class Purpose(enum.Enum):
    """Why a round of requests is made."""

    #: The channel is new, and registers everything.
    TAKE_OVER = "take over"
    #: Registrations are renewed, and what was refused is asked again.
    RENEW = "renew"


@attrs.define(eq=False)
class Round:
    """Requests to register everything over one channel, one after the other."""

    channel: Channel
    purpose: Purpose
    #: Until when what was registered is good.
    until: float = math.inf
    #: What failed, and may succeed soon.
    temporary: HybridRelayError | None = None
    #: A request was made.
    has_asked: bool = False
    #: What has yet to be asked.
    pending: deque[Registration] = attrs.field(factory=deque)
    #: The request that was made and not answered: its number, the registration, and the string that it used.
    request: tuple[int, Registration, ConnectionString] | None = None
    #: Why the relay has refused the changed string of that registration, while an earlier one is tried.
    rejection: HybridRelayError | None = None
