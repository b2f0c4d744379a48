"""Which programs were seen while keys are rolled, in a file of the state directory, so that a relay that is started
again does not revoke an old key that a program still needs. Synchronous."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs

from ..._replace_file import replace_file
from ..._value import Value
from ...protocol.control import KeptState
from ...security import KeySlot
from ..model import KeyRoll
from ..rolls import MAX_PROGRAMS, Program

__all__ = [
    "ROLLS_FILE",
    "Remembered",
    "SavedEnd",
    "read_ended_rolls",
    "read_rolls",
    "roll_id",
    "write_rolls",
]

ROLLS_FILE: Final = "rolls.json"
_FORMAT: Final = "hybridrelay-rolls"
#: The maximum size of a file that is read (bytes). 10,000 programs take about 2 MB. There may be as many as
#: `MAX_PROGRAMS_OF_RELAY`, and a few more of each hybrid connection, and each character of their texts may take 12
#: bytes.
_MAX_BYTES: Final = 128 << 20
_MAX_TEXT: Final = 1024
#: How much of a program's own text is saved (characters), so that programs cannot make the file too large.
_MAX_SAVED_DETAIL: Final = 48
#: How many programs are encoded in one go.
_PART: Final = 200

#: The programs that were seen, by roll (`roll_id`); None: they were forgotten.
Remembered: TypeAlias = Mapping[str, Sequence[Program] | None]


@attrs.frozen
class SavedEnd(Value):
    """A roll that is over, although programs have not stored the new key."""

    connection: str
    roll: KeyRoll
    #: When the old key was revoked (seconds since 1970).
    ended_at: float
    #: How many programs were seen during the roll.
    seen: int
    #: The programs that have not stored the key.
    programs: Sequence[Program]
    #: Since when programs were noted (seconds since 1970).
    seen_since: float
    #: Whether there was no room for others.
    is_crowded: bool = False


def roll_id(connection: str, roll: KeyRoll) -> str:
    """Return what identifies a roll: the hybrid connection, the rule, its new key, and when it began."""
    return json.dumps([connection, roll.rule, roll.slot.value, roll.new_generation, roll.started_at])


def write_rolls(state_dir: Path, rolls: Remembered, ended: Iterable[SavedEnd] = ()) -> None:
    """Replace the file. Raises OSError.

    Args:
        state_dir: the relay's state directory.
        rolls: the rolls that are in progress.
        ended: those that are over.
    """
    # In parts: the encoder lets no other thread run until it has encoded everything that it was given.
    content = ",".join(
        f"{_dumped(one)}:{'null' if programs is None else _dumped_programs(programs)}"
        for one, programs in rolls.items()
    )
    over = ",".join(
        f"[{_dumped(_head_of(one))[1:-1]},{_dumped_programs(one.programs)},{_dumped(_tail_of(one))[1:-1]}]"
        for one in ended
    )
    text = f'{{"format":{_dumped(_FORMAT)},"version":1,"rolls":{{{content}}},"ended":[{over}]}}'
    replace_file(state_dir / ROLLS_FILE, text + "\n")


def read_rolls(state_dir: Path) -> Remembered:
    """Read the file. If there is none, nothing is remembered.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    content = _read(state_dir)
    if content is None:
        return {}
    try:
        return {
            str(one): None if programs is None else [_program(*values) for values in programs[:MAX_PROGRAMS]]
            for one, programs in content["rolls"].items()
        }
    except (KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ValueError("it has another form") from exc


def read_ended_rolls(state_dir: Path) -> list[SavedEnd]:
    """Read the rolls that are over from the file.

    Raises:
        OSError, ValueError: see `read_rolls`.
    """
    content = _read(state_dir)
    if content is None:
        return []
    try:
        return [_ended(*values) for values in content.get("ended", ())]
    except (TypeError, AttributeError, RecursionError) as exc:
        raise ValueError("it has another form") from exc


def _read(state_dir: Path) -> dict[str, Any] | None:
    try:
        with (state_dir / ROLLS_FILE).open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(data) > _MAX_BYTES:
        raise ValueError("it is too large")
    try:
        content = json.loads(data)
        if (content["format"], content["version"]) != (_FORMAT, 1):
            raise ValueError("it was written by another version, or by another program")
    except (KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ValueError("it has another form") from exc
    assert isinstance(content, dict)
    return content


def _head_of(ended: SavedEnd) -> list[object]:
    roll = ended.roll
    generations = roll.old_generation, roll.new_generation
    return [
        ended.connection, roll.rule, roll.slot.value, *generations, roll.started_at, roll.ends_at, roll.waits,
        ended.ended_at, ended.seen,
    ]  # fmt: skip


def _tail_of(ended: SavedEnd) -> list[object]:
    return [ended.seen_since, ended.is_crowded]


def _ended(
    connection: object,
    rule: object,
    slot: object,
    old_generation: object,
    new_generation: object,
    started_at: object,
    ends_at: object,
    waits: object,
    ended_at: object,
    seen: object,
    programs: Sequence[Sequence[object]],
    seen_since: object = None,
    is_crowded: object = False,
) -> SavedEnd:
    seen_since = started_at if seen_since is None else seen_since
    texts = [connection, rule, slot]
    numbers = [old_generation, new_generation, started_at, ends_at, ended_at, seen, seen_since]
    if not all(isinstance(one, str) for one in texts) or not all(type(one) in (int, float) for one in numbers):
        raise ValueError("it has another form")
    old, new, started, ends, ended, count, since = (float(str(one)) for one in numbers)
    if not all(map(math.isfinite, (old, new, started, ends, ended, count, since))):
        raise ValueError("a number is not finite")
    roll = KeyRoll(str(rule), KeySlot(str(slot)), int(old), int(new), started, ends, bool(waits))
    found = [_program(*values) for values in programs[:MAX_PROGRAMS]]
    return SavedEnd(str(connection), roll, ended, int(count), found, since, bool(is_crowded))


def _dumped_programs(programs: Sequence[Program]) -> str:
    parts = (programs[begin : begin + _PART] for begin in range(0, len(programs), _PART))
    return f"[{','.join(_dumped(list(map(_encoded, part)))[1:-1] for part in parts)}]"


def _dumped(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _encoded(program: Program) -> list[str | None]:
    state = None if program.state is None else program.state.value
    return [program.instance, program.address, program.role, state, program.detail[:_MAX_SAVED_DETAIL]]


def _program(instance: object, address: object, role: object, state: object, detail: object) -> Program:
    texts = [instance, address, role, detail]
    if not all(isinstance(one, str) and len(one) <= _MAX_TEXT for one in texts):
        raise ValueError("a text is missing or too long")
    return Program(
        str(instance),
        str(address),
        str(role),
        None if state is None else KeptState(str(state)),
        str(detail),
        is_connected=False,
    )
