"""Decides which programs are given an update of their connection strings, and notes who has it. Pure.

The rules:

1. The relay gives the update to each program of the recipients' side that has presented a valid token for the hybrid
   connection, over the control channel on which it did so. The program answers what it has done (`UpdateState`).
2. A program that has neither *kept* the update nor said that it is for *others* is given it again every
   `REPEAT_SECONDS`, and on each new control channel.
3. Programs that have disconnected are remembered if they do not have the update, and connectors in any case: when the
   next update comes, they do not have that one. Not more than `MAX_DEPARTED` of them, for `DEPARTED_SECONDS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

import attrs

from ...protocol.control import UpdateState

__all__ = [
    "DEPARTED_SECONDS",
    "MAX_DEPARTED",
    "MAX_HOLDERS",
    "REPEAT_SECONDS",
    "Distribution",
    "GiveUpdate",
    "Recipient",
    "Seen",
]

HandleT = TypeVar("HandleT")

#: How often a program that has not kept the update is given it again (seconds).
REPEAT_SECONDS = 60.0
#: How many answers of a program are noted each time it is asked. Each is an event.
MAX_ANSWERS = 3
#: How many programs are remembered. Others are given the update, but are not listed.
MAX_HOLDERS = 10_000
#: How many programs are remembered after they have disconnected, and for how long (seconds).
MAX_DEPARTED = 1000
DEPARTED_SECONDS = 30 * 86_400.0

_SETTLED = frozenset({UpdateState.KEPT, UpdateState.OTHER})


@attrs.frozen
class Seen(Generic[HandleT]):
    """A control channel of a program that may be a recipient."""

    handle: HandleT
    instance: str
    #: The address group of the peer.
    address: str
    #: ``connector`` or ``client``.
    role: str


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
    #: How many more answers are noted until it is asked again.
    answers_left: int = 0

    @property
    def has_settled(self) -> bool:
        """Whether there is nothing left to be done."""
        return self.state in _SETTLED


@attrs.frozen
class GiveUpdate(Generic[HandleT]):
    """Send the update over this control channel."""

    handle: HandleT


class Distribution(Generic[HandleT]):
    """The machine of one update.

    Args:
        sequence: the sequence of the update.
        earlier: the machine of the update that this one replaces, if there is one.
    """

    def __init__(self, sequence: int, earlier: Distribution[HandleT] | None = None) -> None:
        self.sequence = sequence
        #: By address group and instance: another program may claim the same instance.
        self._recipients: dict[tuple[str, str], Recipient] = {}
        #: When the update was last sent over each control channel.
        self._asked: dict[HandleT, float] = {}
        for at, one in () if earlier is None else earlier._recipients.items():
            if one.departed_at is not None and one.state is not UpdateState.OTHER:
                self._recipients[at] = Recipient(one.instance, one.address, one.role, departed_at=one.departed_at)

    @property
    def recipients(self) -> tuple[Recipient, ...]:
        """The programs that were seen, except those for which the update is not, in the order in which they were."""
        return tuple(one for one in self._recipients.values() if one.state is not UpdateState.OTHER)

    @property
    def missing(self) -> tuple[Recipient, ...]:
        """Those of them that have not kept the update."""
        return tuple(one for one in self._recipients.values() if not one.has_settled)

    def observe(self, channels: Iterable[Seen[HandleT]], now: float) -> list[GiveUpdate[HandleT]]:
        """Note the control channels that exist now, and return to which of them the update is to be sent.

        Args:
            channels: all control channels of programs that may be recipients.
            now: seconds since 1970.
        """
        outputs: list[GiveUpdate[HandleT]] = []
        asked: dict[HandleT, float] = {}
        present: set[tuple[str, str]] = set()
        for seen in channels:
            at = seen.address, seen.instance
            present.add(at)
            known = self._recipients.get(at)
            if known is None:
                known = Recipient(seen.instance, seen.address, seen.role)
                if len(self._recipients) < MAX_HOLDERS:
                    self._recipients[at] = known
            known.departed_at = None
            last = self._asked.get(seen.handle)
            if last is None or (not known.has_settled and now - last >= REPEAT_SECONDS):
                outputs.append(GiveUpdate(seen.handle))
                known.answers_left = MAX_ANSWERS
                last = now
            asked[seen.handle] = last
        self._asked = asked
        self._note_departures(present, now)
        return outputs

    def _note_departures(self, present: set[tuple[str, str]], now: float) -> None:
        departed = []
        for at, one in list(self._recipients.items()):
            if at in present:
                continue
            if one.departed_at is None:
                one.departed_at = now
            if (
                one.state is UpdateState.OTHER
                or (one.has_settled and one.role != "connector")
                or now - one.departed_at > DEPARTED_SECONDS
            ):
                del self._recipients[at]
            else:
                departed.append((one.departed_at, at))
        for _, at in sorted(departed)[:-MAX_DEPARTED]:
            del self._recipients[at]

    def answered(self, address: str, instance: str, state: UpdateState, detail: str) -> Recipient | None:
        """Note the answer of a program. Returns the program; None if it is unknown, has said this before, or has
        answered too often since it was asked."""
        known = self._recipients.get((address, instance))
        if known is None or not known.answers_left or (known.state, known.detail) == (state, detail):
            return None
        known.answers_left -= 1
        known.state, known.detail = state, detail
        return known
