"""The control channels to one relay: their states in the registration machine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import partial

import attrs

from ...connectivity.backoff import Backoff
from ...connectivity.discovery import Candidate
from . import commands
from .commands import Output
from .inputs import RelayIdentity
from .registrations import Registrations
from .states import CHANNELS, ChannelCause, ChannelState

__all__ = ["MAX_NOTICES", "Channel", "Channels"]

#: When the relay ends a registration, everything is registered again at once, unless that has already happened within
#: this time (seconds). Then there is a wait, which grows, so that a relay that keeps ending registrations cannot keep
#: this process busy.
REGISTER_AGAIN_HELD = 60.0
#: How many notices (`Ended` and `Draining` messages) one control channel may receive within `NOTICE_SECONDS`, in
#: addition to one for each registration. A relay that sends more is misbehaving: the channel is closed, and the next
#: one is opened after the back-off.
MAX_NOTICES = 60
NOTICE_SECONDS = 60.0


@attrs.define(eq=False)
class Channel:
    """One control channel, from the command to open it until it has ended."""

    number: int
    #: Makes the back-offs of this channel.
    _backoff: partial[Backoff]
    state: ChannelState = ChannelState.OPENING
    #: Its route; None until it is open.
    route: Candidate | None = None
    relay: RelayIdentity = ("", "")
    #: When to renew the registrations over this channel; None while they are being renewed, or if it renews none.
    due: float | None = None
    #: Whether everything has to be registered again earlier than planned.
    is_stale: bool = False
    #: How long to wait after the end of the channel, as the relay has asked in `Draining` (seconds). Only the first
    #: such message counts, so that a relay cannot extend the time by repeating it.
    retry_after: float | None = None
    #: The waits before repeating a refused registration that may be accepted soon.
    retry: Backoff = attrs.field(init=False)
    #: The waits before registering again while the relay keeps ending registrations.
    _again_backoff: Backoff = attrs.field(init=False)
    _registered_again_at: float = -math.inf
    #: How many notices were received, and since when they are counted; see `MAX_NOTICES`.
    _notices: int = 0
    _notices_since: float = -math.inf

    def __attrs_post_init__(self) -> None:
        self.retry = self._backoff(first_seconds=2.0, max_seconds=30.0)
        self._again_backoff = self._backoff(held_seconds=REGISTER_AGAIN_HELD)

    def opened(self, route: Candidate, relay: RelayIdentity) -> None:
        """Note that the channel is open."""
        self.move(ChannelCause.OPENED)
        self.route, self.relay = route, relay

    def move(self, cause: ChannelCause) -> None:
        """Change the state according to the table."""
        self.state = CHANNELS[self.state, cause]
        if not self.is_serving:
            self.due = None

    @property
    def is_open(self) -> bool:
        """Whether the channel was opened and has not ended."""
        return self.state not in (ChannelState.OPENING, ChannelState.CLOSED)

    @property
    def is_serving(self) -> bool:
        """Whether registrations are renewed over the channel."""
        return self.state in (ChannelState.CURRENT, ChannelState.EARLIER)

    def register_again(self, now: float) -> None:
        """Register everything again soon."""
        if self.is_stale:
            return
        self.is_stale = True
        if self.due is not None:
            self._schedule_again(now)

    def schedule(self, now: float, wait: float) -> None:
        """Register everything again after `wait` seconds, or earlier if `is_stale`."""
        if self.is_stale:
            self._schedule_again(now)
        else:
            self.due = now + wait

    def _schedule_again(self, now: float) -> None:
        held = now - self._registered_again_at
        self._again_backoff.succeeded(held_seconds=held)
        self.due = self._registered_again_at = (
            now if held >= REGISTER_AGAIN_HELD else now + self._again_backoff.next_wait()
        )

    def admit_notice(self, now: float, limit: int) -> bool:
        """Count a notice. Returns False if there were too many of them; see `MAX_NOTICES`."""
        if now - self._notices_since >= NOTICE_SECONDS:
            self._notices, self._notices_since = 0, now
        self._notices += 1
        return self._notices <= limit


class Channels:
    """The control channels that have not ended, the oldest first.

    Args:
        registrations: what may be registered over them.
        backoff: makes the back-offs of each.
        out: the list to which commands are appended.
    """

    def __init__(self, registrations: Registrations, backoff: partial[Backoff], out: list[Output]) -> None:
        self._registrations = registrations
        self._backoff = backoff
        self._out = out
        self._by_number: dict[int, Channel] = {}
        self._numbers = itertools.count(1)

    def __iter__(self) -> Iterator[Channel]:
        return iter(self._by_number.values())

    def get(self, number: int) -> Channel | None:
        """Return the channel with this number; None if it has ended."""
        return self._by_number.get(number)

    @property
    def current(self) -> Channel | None:
        """The channel that was the last to take over the registrations; None if it has ended or is being closed."""
        return next((one for one in self if one.state is ChannelState.CURRENT), None)

    @property
    def latest_open(self) -> Channel | None:
        """The newest open channel, if there is one."""
        return next((one for one in reversed(self._by_number.values()) if one.is_open), None)

    @property
    def due(self) -> float | None:
        """The earliest time at which one of them has to register again; None if none has to."""
        return min((one.due for one in self if one.due is not None), default=None)

    def open(self, route: Candidate | None) -> int:
        """Command another channel to be opened; see `commands.OpenChannel`. Returns its number."""
        number = next(self._numbers)
        self._by_number[number] = Channel(number, self._backoff)
        self._out.append(commands.OpenChannel(number, route))
        return number

    def ended(self, number: int) -> Channel | None:
        """Note that a channel could not be opened, or has ended. Returns the channel, or None if this was already
        known."""
        if (channel := self._by_number.pop(number, None)) is not None:
            channel.move(ChannelCause.ENDED)
        return channel

    def abandon(self, channel: Channel) -> None:
        """Give up a channel that has not become the current one."""
        channel.move(ChannelCause.ABANDONED)
        del self._by_number[channel.number]
        self._out.append(commands.AbandonChannel(channel.number))

    def took_over(self, channel: Channel) -> None:
        """Make this channel the current one."""
        if (before := self.current) is not None:
            before.move(ChannelCause.REPLACED)
        channel.move(ChannelCause.TOOK_OVER)

    def close(self, channel: Channel) -> None:
        """Close an open channel. If it is the current one, the earlier ones are closed, too."""
        was_current = channel.state is ChannelState.CURRENT
        channel.move(ChannelCause.CLOSED_BY_US)
        self._out.append(commands.CloseChannel(channel.number))
        if was_current:
            self.close_earlier()

    def close_earlier(self) -> None:
        """Close all earlier channels, so that the next control channel registers everything again."""
        for channel in self:
            if channel.state is ChannelState.EARLIER:
                self.close(channel)

    def close_unused(self) -> None:
        """Close the earlier channels over which nothing is registered.

        The relay closes them, too. If an offer over one of them was not answered, it repeats this offer over the
        current channel.
        """
        for channel in self:
            if channel.state is ChannelState.EARLIER and not self._registrations.has_any_over(channel.number):
                self.close(channel)

    def check(self) -> None:
        """Command a ping over every open channel."""
        self._out.extend(commands.CheckChannel(one.number) for one in self if one.is_open)

    def register_again(self, now: float) -> None:
        """Register everything again soon."""
        for channel in self:
            channel.register_again(now)

    def stop(self) -> None:
        """Close all channels, without waiting for their ends."""
        for channel in self:
            if channel.state is ChannelState.OPENING:
                self._out.append(commands.AbandonChannel(channel.number))
            elif channel.state is not ChannelState.CLOSING:
                self._out.append(commands.CloseChannel(channel.number))
        self._by_number.clear()
