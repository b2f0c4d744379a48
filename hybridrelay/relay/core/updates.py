"""Decides which programs are given an update of their connection strings, and notes who has it. Pure.

The rules:

1. The relay gives the update to each program of the role for which the update is (connector or client) that has
   presented a valid token for the hybrid connection, over the control channel on which it did so. The program reports
   what it has done with the update (`UpdateState`).
2. A program is given the update on each new control channel. One that has neither *kept* it nor answered that it is
   encrypted for other programs (`UpdateState.OTHER`) is given it again every `REPEAT_SECONDS`.
3. Programs that have disconnected are remembered if they still have to keep the update. Connectors that have kept it
   are remembered as well, so that the next update counts them among the programs that do not have it yet. At most
   `MAX_DEPARTED` programs are remembered in this way, each for `DEPARTED_SECONDS`.
4. If there is no room for a program, it is given the update, but is not remembered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Generic, Protocol, TypeAlias, TypeVar

import attrs

from ...protocol.control import UpdateState

__all__ = [
    "DEPARTED_SECONDS",
    "MAX_DEPARTED",
    "REPEAT_SECONDS",
    "Channel",
    "Distribution",
    "GiveUpdate",
    "Recipient",
]


class Channel(Protocol):
    """A control channel of a program that may be a recipient. Hashed and compared by identity."""

    @property
    def instance(self) -> str:
        """The instance of the program."""

    @property
    def address(self) -> str:
        """The address group of the program: its IPv4 address, or the /64 of its IPv6 address."""

    @property
    def role(self) -> str | None:
        """``connector`` or ``client``."""


ChannelT = TypeVar("ChannelT", bound=Channel)
#: Address group and instance: another program may claim the same instance.
_Program: TypeAlias = tuple[str, str]

#: How often a program that has not kept the update is given it again (seconds).
REPEAT_SECONDS = 60.0
#: How many answers of a program are noted each time it is given the update. Each is an event.
MAX_ANSWERS = 3
#: How many programs are remembered after they have disconnected, and for how long (seconds).
MAX_DEPARTED = 1000
DEPARTED_SECONDS = 30 * 86_400.0

_NEED_NOTHING = frozenset({UpdateState.KEPT, UpdateState.OTHER})


@attrs.define
class Recipient:
    """A program that was seen."""

    instance: str
    address: str
    role: str
    #: What it has answered last; None if nothing.
    state: UpdateState | None = None
    detail: str = ""
    #: When it disconnected (seconds since 1970); None if it has a control channel now.
    departed_at: float | None = None
    #: The same, on the monotonic clock of `Distribution.observe`.
    departed_on: float = 0.0
    #: How many more answers are noted until it is given the update again.
    answers_left: int = 0

    @property
    def needs_nothing(self) -> bool:
        """Whether nothing is left to be done: the program has kept the update, or is not concerned."""
        return self.state in _NEED_NOTHING


@attrs.frozen
class GiveUpdate(Generic[ChannelT]):
    """Send the update over this control channel."""

    channel: ChannelT


class Distribution(Generic[ChannelT]):
    """The machine of one update. A call of `observe` takes time in proportion to the number of control channels
    and of programs that are remembered.

    Args:
        sequence: the sequence of the update.
        earlier: the machine of the update that this one replaces, if there is one. This machine closes it.
        take_room: returns whether there is room for one more program, and takes it.
        release_room: gives back the room of this many programs.
    """

    def __init__(
        self,
        sequence: int,
        earlier: Distribution[ChannelT] | None = None,
        *,
        take_room: Callable[[], bool] = lambda: True,
        release_room: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.sequence = sequence
        self._take_room, self._release_room = take_room, release_room
        self._recipients: dict[_Program, Recipient] = {}
        #: Those of them that have disconnected.
        self._departed: dict[_Program, Recipient] = {}
        #: The programs of the control channels that were last observed, and how many channels each has.
        self._channels: dict[ChannelT, _Program] = {}
        self._open: Counter[_Program] = Counter()
        #: When the update was last sent over each channel whose program still has to keep it.
        self._asked: dict[ChannelT, float] = {}
        #: The same for the channels of programs that need nothing, but may report something else later.
        self._done: dict[_Program, dict[ChannelT, float]] = {}
        #: Whether there was no room for a program, which is therefore not among the recipients.
        self.is_crowded = False
        for at, one in {} if earlier is None else earlier.close().items():
            if one.departed_at is not None and one.state is not UpdateState.OTHER and self._has_room():
                self._recipients[at] = self._departed[at] = Recipient(
                    one.instance,
                    one.address,
                    one.role,
                    departed_at=one.departed_at,
                    departed_on=one.departed_on,
                )

    def close(self) -> dict[_Program, Recipient]:
        """Give back the room of all programs, and return them. Nothing may be called afterwards."""
        recipients, self._recipients = self._recipients, {}
        self._release_room(len(recipients))
        return recipients

    @property
    def recipients(self) -> tuple[Recipient, ...]:
        """The programs that were seen, except those that have answered that the update is encrypted for others."""
        return tuple(one for one in self._recipients.values() if one.state is not UpdateState.OTHER)

    @property
    def missing(self) -> tuple[Recipient, ...]:
        """The recipients that have not kept the update."""
        return tuple(one for one in self._recipients.values() if not one.needs_nothing)

    def observe(
        self, channels: AbstractSet[ChannelT], now: float, *, time_of_day: float
    ) -> list[GiveUpdate[ChannelT]]:
        """Note the control channels that exist now, and return to which of them the update is to be sent.

        Args:
            channels: all control channels of programs that may be recipients.
            now: seconds, on a monotonic clock.
            time_of_day: seconds since 1970, which is only shown.
        """
        for channel in self._channels.keys() - channels:
            self._depart(channel, now, time_of_day)
        outputs = []
        for channel in channels - self._channels.keys():
            self._arrive(channel)
            outputs.append(self._give(channel, now))
        for channel, last in list(self._asked.items()):
            at = self._channels[channel]
            known = self._recipients.get(at)
            if known is not None and known.needs_nothing:
                self._done.setdefault(at, {})[channel] = self._asked.pop(channel)
            elif now - last >= REPEAT_SECONDS:
                outputs.append(self._give(channel, now))
        self._forget(now)
        return outputs

    def _arrive(self, channel: ChannelT) -> None:
        at = channel.address, channel.instance
        self._channels[channel] = at
        self._open[at] += 1
        known = self._recipients.get(at)
        if known is not None:
            known.departed_at = None
            self._departed.pop(at, None)
        elif self._has_room():
            self._recipients[at] = Recipient(channel.instance, channel.address, str(channel.role))

    def _has_room(self) -> bool:
        """Take room for another program. Returns whether there was any."""
        has_room = self._take_room()
        self.is_crowded = self.is_crowded or not has_room
        return has_room

    def _give(self, channel: ChannelT, now: float) -> GiveUpdate[ChannelT]:
        self._asked[channel] = now
        known = self._recipients.get(self._channels[channel])
        if known is not None:
            known.answers_left = MAX_ANSWERS
        return GiveUpdate(channel)

    def _depart(self, channel: ChannelT, now: float, time_of_day: float) -> None:
        at = self._channels.pop(channel)
        self._asked.pop(channel, None)
        self._done.get(at, {}).pop(channel, None)
        self._open[at] -= 1
        if self._open[at]:
            return
        del self._open[at]
        self._done.pop(at, None)
        one = self._recipients.get(at)
        if one is None:
            return
        one.departed_at, one.departed_on = time_of_day, now
        self._departed[at] = one
        if one.state is UpdateState.OTHER or (one.needs_nothing and one.role != "connector"):
            self._remove(at)

    def _forget(self, now: float) -> None:
        """Forget programs that left long ago, and the earliest of the others if there are too many."""
        departed = sorted((one.departed_on, at) for at, one in self._departed.items())
        too_many = len(departed) - MAX_DEPARTED
        for number, (since, at) in enumerate(departed):
            if number < too_many or now - since > DEPARTED_SECONDS:
                self._remove(at)

    def _remove(self, at: _Program) -> None:
        del self._recipients[at]
        self._departed.pop(at, None)
        self._release_room(1)

    def answered(self, address: str, instance: str, state: UpdateState, detail: str) -> Recipient | None:
        """Note the answer of a program. Returns the program; None if it is unknown, has said this before, or has
        answered too often since it was given the update."""
        known = self._recipients.get((address, instance))
        if known is None or not known.answers_left or (known.state, known.detail) == (state, detail):
            return None
        known.answers_left -= 1
        known.state, known.detail = state, detail
        if not known.needs_nothing:  # it may have lost what it had
            self._asked.update(self._done.pop((address, instance), {}))
        if known.departed_at is not None and state is UpdateState.OTHER:
            self._remove((address, instance))
        return known
