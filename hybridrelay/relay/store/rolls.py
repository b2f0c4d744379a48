"""Which programs were seen while keys are rolled, in a file of the state directory, so that a relay that is started
again does not revoke an old key that a program still needs. Synchronous."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from ..._replace_file import replace_file
from ...protocol.control import KeptState
from ..model import KeyRoll
from ..rolls import MAX_HOLDERS, Holder

__all__ = ["ROLLS_FILE", "Remembered", "read_rolls", "roll_id", "write_rolls"]

ROLLS_FILE: Final = "rolls.json"
_FORMAT: Final = "hybridrelay-rolls"
#: The maximum size of a file that is read (bytes). 10,000 programs take about 2 MB.
_MAX_BYTES: Final = 64 << 20
_MAX_TEXT: Final = 1024
#: How many programs are encoded at once.
_PART: Final = 200

#: The programs that were seen, by roll (`roll_id`); None: they were forgotten.
Remembered: TypeAlias = Mapping[str, Sequence[Holder] | None]


def roll_id(connection: str, roll: KeyRoll) -> str:
    """Return what identifies a roll: the rule, its new key, and when it began."""
    return json.dumps([connection, roll.rule, roll.slot.value, roll.new_generation, roll.started_at])


def write_rolls(state_dir: Path, rolls: Remembered) -> None:
    """Replace the file. Raises OSError."""
    # In parts: the encoder lets no other thread run until it has encoded everything that it was given.
    content = ",".join(
        f"{_dumped(one)}:{'null' if holders is None else _dumped_holders(holders)}" for one, holders in rolls.items()
    )
    text = f'{{"format":{_dumped(_FORMAT)},"version":1,"rolls":{{{content}}}}}'
    replace_file(state_dir / ROLLS_FILE, text + "\n")


def read_rolls(state_dir: Path) -> Remembered:
    """Read the file. If there is none, nothing is remembered.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    try:
        with (state_dir / ROLLS_FILE).open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return {}
    if len(data) > _MAX_BYTES:
        raise ValueError("it is too large")
    try:
        content = json.loads(data)
        if (content["format"], content["version"]) != (_FORMAT, 1):
            raise ValueError("it was written by another version, or by another program")
        return {
            str(one): None if holders is None else [_holder(*values) for values in holders[:MAX_HOLDERS]]
            for one, holders in content["rolls"].items()
        }
    except (KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ValueError("it has another form") from exc


def _dumped_holders(holders: Sequence[Holder]) -> str:
    parts = (holders[begin : begin + _PART] for begin in range(0, len(holders), _PART))
    return f"[{','.join(_dumped(list(map(_encoded, part)))[1:-1] for part in parts)}]"


def _dumped(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _encoded(holder: Holder) -> list[str | None]:
    state = None if holder.state is None else holder.state.value
    return [holder.instance, holder.address, holder.role, state, holder.detail]


def _holder(instance: object, address: object, role: object, state: object, detail: object) -> Holder:
    texts = [instance, address, role, detail]
    if not all(isinstance(one, str) and len(one) <= _MAX_TEXT for one in texts):
        raise ValueError("a text is missing or too long")
    return Holder(
        str(instance),
        str(address),
        str(role),
        None if state is None else KeptState(str(state)),
        str(detail),
        is_connected=False,
    )
