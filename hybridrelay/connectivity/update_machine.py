"""What a connector or client does with an update of its connection string. Pure.

The rules:

1. An update is used only if the authority has signed it for this side of this hybrid connection, and for this
   identity. Everything else is refused, or is for others.
2. An update is used only if its sequence is greater than that of the last one. An earlier one that a relay delivers
   again is answered like one that is in use, because nothing is left to do. If the connection string itself is older
   than the last update that was used on this machine (a backup was restored), only that update or a later one is
   used.
3. An update is used only within its time, and if the policy of this machine allows the result.
4. If an update changes relays or pins, the program first finds out whether one of the relays in it can be reached,
   has one of the pins in it, and accepts the key. Until one does, the earlier relays and pins stay in use. The relay
   delivers the update again, and each time the program tries again.
5. The program first stores the changed connection string, then answers the relay, and then uses the string. If it
   cannot store the string, it uses the string anyway, and tells the relay so.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import TypeAlias

import attrs

from .._value import Value
from ..errors import UpdateError
from ..protocol.control import UpdateState
from ..security import ConnectionString, Update, open_update_untrusted

__all__ = [
    "TRANSITIONS",
    "AnswerRelay",
    "Command",
    "MachineInput",
    "MachineState",
    "ReportNotUsed",
    "StoreString",
    "TryRelays",
    "UpdateMachine",
    "UseUpdate",
]


class MachineState(enum.Enum):
    """What happens to the last update."""

    #: Nothing is to be done.
    IDLE = "idle"
    #: The program is finding out whether one of the update's relays can be reached.
    TRYING = "trying"
    #: The changed connection string is being stored.
    STORING = "storing"


class MachineInput(enum.Enum):
    """What can happen."""

    #: An update has arrived that is not used.
    TURNED_DOWN = "turned down"
    #: An update has arrived that changes relays or pins.
    NEEDS_TRIAL = "needs trial"
    #: An update has arrived that changes neither.
    NEEDS_NO_TRIAL = "needs no trial"
    REACHED = "reached"
    NOT_REACHED = "not reached"
    #: Storing has ended, with success or without.
    STORED = "stored"
    #: The program no longer serves the hybrid connection, or the task was cancelled.
    GIVEN_UP = "given up"


TRANSITIONS: Mapping[tuple[MachineState, MachineInput], MachineState] = {
    (MachineState.IDLE, MachineInput.TURNED_DOWN): MachineState.IDLE,
    (MachineState.IDLE, MachineInput.NEEDS_TRIAL): MachineState.TRYING,
    (MachineState.IDLE, MachineInput.NEEDS_NO_TRIAL): MachineState.STORING,
    (MachineState.IDLE, MachineInput.GIVEN_UP): MachineState.IDLE,
    (MachineState.TRYING, MachineInput.REACHED): MachineState.STORING,
    (MachineState.TRYING, MachineInput.NOT_REACHED): MachineState.IDLE,
    (MachineState.TRYING, MachineInput.GIVEN_UP): MachineState.IDLE,
    (MachineState.STORING, MachineInput.STORED): MachineState.IDLE,
    (MachineState.STORING, MachineInput.GIVEN_UP): MachineState.IDLE,
}


@attrs.frozen
class AnswerRelay(Value):
    """Answer the relay that has delivered the update."""

    state: UpdateState
    detail: str = ""


@attrs.frozen
class TryRelays(Value):
    """Find out whether a relay of this connection string can be reached. Continue with `UpdateMachine.tried`."""

    string: ConnectionString


@attrs.frozen
class StoreString(Value):
    """Store the changed connection string. Continue with `UpdateMachine.stored`."""

    before: ConnectionString
    after: ConnectionString


@attrs.frozen
class UseUpdate(Value):
    """Use the changed connection string from now on. `changed` names what has changed. `why_not_kept`: why it could
    not be stored; empty if it was."""

    string: ConnectionString
    changed: tuple[str, ...]
    why_not_kept: str


@attrs.frozen
class ReportNotUsed(Value):
    """Report that the update is not used (now), unless this was reported before."""

    state: UpdateState
    detail: str


Command: TypeAlias = AnswerRelay | TryRelays | StoreString | UseUpdate | ReportNotUsed


class UpdateMachine:
    """The machine for one hybrid connection. An input is allowed only in the states that `TRANSITIONS` has for it."""

    def __init__(self) -> None:
        self.state = MachineState.IDLE
        #: The update that is in progress; None if there is none, or if one that is in use is only to be stored.
        self._update: Update | None = None
        #: The sequence of the last update that was used in this run.
        self._used = 0
        #: The connection string before an update that is in use and could not be stored.
        self._unstored: ConnectionString | None = None
        #: The sequence and state of the last update that was not used, and why; None if one was used since.
        self.not_used: tuple[int, UpdateState, str] | None = None

    def delivered(
        self,
        string: ConnectionString,
        sequence: int,
        document: bytes,
        *,
        floor: int,
        now: float,
        why_not: Callable[[ConnectionString], str],
    ) -> list[Command]:
        """Handle an update that a relay has delivered.

        Args:
            string: the connection string in use.
            sequence: the sequence as the relay has stated it. It decides nothing.
            document: what the relay has delivered.
            floor: the sequence of the last update that was used on this machine, as far as it is known.
            now: seconds since 1970.
            why_not: returns why the policy of this machine does not allow a connection string; empty if it does.
        """
        try:
            update = open_update_untrusted(string, document)
        except UpdateError as exc:
            return self._turn_down(sequence, UpdateState.REFUSED, str(exc))
        if not update.is_for(string):
            self._apply(MachineInput.TURNED_DOWN)
            return [AnswerRelay(UpdateState.OTHER)]
        if update.sequence <= string.update_sequence:
            return self._in_use(string)
        if update.sequence < max(floor, self._used):
            return self._turn_down(
                sequence,
                UpdateState.WAITING,
                "this machine has already used a later update, which this relay does not have",
            )
        if now > update.not_after:
            return self._turn_down(sequence, UpdateState.REFUSED, "the update has expired")
        if now < update.not_before:
            return self._turn_down(sequence, UpdateState.WAITING, "the update is not valid yet")
        try:
            wanted = update.applied_to(string)
        except ValueError as exc:
            return self._turn_down(sequence, UpdateState.REFUSED, f"the update does not fit: {exc}")
        if why := why_not(wanted):
            return self._turn_down(sequence, UpdateState.REFUSED, why)
        self._update = update
        if (wanted.endpoints, wanted.relay_pins) != (string.endpoints, string.relay_pins):
            self._apply(MachineInput.NEEDS_TRIAL)
            return [TryRelays(wanted)]
        self._apply(MachineInput.NEEDS_NO_TRIAL)
        return [StoreString(string, wanted)]

    def tried(self, string: ConnectionString, why_not: str) -> list[Command]:
        """Continue after `TryRelays`.

        Args:
            string: the connection string in use now, which may have got another key in the meantime.
            why_not: why no relay can be reached; empty if one can.
        """
        assert self._update is not None
        if why_not:
            self._apply(MachineInput.NOT_REACHED)
            update, self._update = self._update, None
            return self._not_used(update.sequence, UpdateState.WAITING, why_not)
        self._apply(MachineInput.REACHED)
        return [StoreString(string, self._update.applied_to(string))]

    def stored(self, string: ConnectionString, why_not: str) -> list[Command]:
        """Continue after `StoreString`. `string` as for `tried`; `why_not`: why it could not be stored; empty if it
        was."""
        self._apply(MachineInput.STORED)
        update, self._update = self._update, None
        answer = AnswerRelay(UpdateState.MEMORY if why_not else UpdateState.KEPT, why_not)
        if not why_not:
            self._unstored = None
        elif self._unstored is None:
            self._unstored = string
        if update is None:
            return [answer]
        after, self.not_used = update.applied_to(string), None
        self._used = after.update_sequence
        changed = tuple(
            name
            for name, differs in (
                ("relays", after.endpoints != string.endpoints),
                ("relay pins", after.relay_pins != string.relay_pins),
                ("target", after.target != string.target),
            )
            if differs
        )
        return [answer, UseUpdate(after, changed, why_not)]

    def give_up(self) -> None:
        """Forget what is in progress. If the string was already stored, it is used after the next start, or when the
        program notices the changed file."""
        self._apply(MachineInput.GIVEN_UP)
        self._update = None

    def _in_use(self, string: ConnectionString) -> list[Command]:
        """Answer that the string already has this update, or a later one. If it could not be stored, try again."""
        if self._unstored is None or self._unstored.update_sequence >= string.update_sequence:
            self._apply(MachineInput.TURNED_DOWN)
            return [AnswerRelay(UpdateState.KEPT)]
        self._apply(MachineInput.NEEDS_NO_TRIAL)
        return [StoreString(self._unstored, string)]

    def _turn_down(self, sequence: int, state: UpdateState, detail: str) -> list[Command]:
        self._apply(MachineInput.TURNED_DOWN)
        return self._not_used(sequence, state, detail)

    def _not_used(self, sequence: int, state: UpdateState, detail: str) -> list[Command]:
        self.not_used = sequence, state, detail
        return [AnswerRelay(state, detail), ReportNotUsed(state, detail)]

    def _apply(self, happened: MachineInput) -> None:
        self.state = TRANSITIONS[self.state, happened]
