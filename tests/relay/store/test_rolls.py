"""The file of the programs that were seen while keys are rolled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hybridrelay.protocol.control import MAX_DETAIL, KeptState
from hybridrelay.relay.core.room import LEAST
from hybridrelay.relay.model import KeyRoll
from hybridrelay.relay.rolls import MAX_PROGRAMS_OF_RELAY, Program
from hybridrelay.relay.store import rolls as module
from hybridrelay.relay.store.rolls import ROLLS_FILE, read_rolls, roll_id, write_rolls
from hybridrelay.security import KeySlot

ROLL = roll_id("db", KeyRoll("application", KeySlot.SECONDARY, 1, 2, 100.5, 200.0))


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    assert read_rolls(tmp_path) == {}
    programs = [
        Program("1" * 32, "192.0.2.1", "connector", KeptState.WAITING, "another relay: é", is_connected=False),
        Program("2" * 32, "2001:db8::", "client", None, "", is_connected=False),
    ]
    write_rolls(tmp_path, {ROLL: programs, "forgotten": None, "empty": []})
    assert read_rolls(tmp_path) == {ROLL: programs, "forgotten": None, "empty": []}
    assert (tmp_path / ROLLS_FILE).stat().st_mode & 0o777 == 0o600
    write_rolls(tmp_path, {})
    assert read_rolls(tmp_path) == {}


def test_many_programs_are_read_again(tmp_path: Path) -> None:
    programs = [Program(str(number), "192.0.2.1", "client", is_connected=False) for number in range(401)]
    write_rolls(tmp_path, {ROLL: programs, "other": programs[:200]})
    assert read_rolls(tmp_path) == {ROLL: programs, "other": programs[:200]}


def test_programs_cannot_make_the_file_too_large_to_be_read(tmp_path: Path) -> None:
    """However many are remembered, and whatever they have answered: otherwise all rolls would be forgotten."""
    count = 1000
    address = "2001:db8:1111:2222::/64"
    many = [Program("f" * 32, address, "connector", KeptState.WAITING, "\U0001f600" * MAX_DETAIL)] * count
    write_rolls(tmp_path, {ROLL: many})
    each = (tmp_path / ROLLS_FILE).stat().st_size / count
    hybrid_connections = 10_000
    assert each * (MAX_PROGRAMS_OF_RELAY + LEAST * hybrid_connections) < module._MAX_BYTES
    (program, *_) = read_rolls(tmp_path)[ROLL] or ()
    assert program.detail == "\U0001f600" * module._MAX_SAVED_DETAIL


def test_programs_seem_disconnected_until_they_are_seen_again(tmp_path: Path) -> None:
    write_rolls(tmp_path, {ROLL: [Program("1", "a", "client")]})
    (program,) = read_rolls(tmp_path)[ROLL] or ()
    assert not program.is_connected


def test_every_roll_has_an_id_of_its_own() -> None:
    roll = KeyRoll("application", KeySlot.SECONDARY, 1, 2, 100.5, 200.0)
    later = KeyRoll("application", KeySlot.SECONDARY, 1, 2, 101.5, 200.0)
    other = KeyRoll("application", KeySlot.PRIMARY, 2, 2, 100.5, 200.0)
    assert len({roll_id("db", roll), roll_id("db2", roll), roll_id("db", later), roll_id("db", other)}) == 4


def content(**changes: Any) -> bytes:
    whole = {"format": "hybridrelay-rolls", "version": 1, "rolls": {"x": [["1", "a", "client", "kept", ""]]}}
    return json.dumps({**whole, **changes}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"[" * 100_000,
        content(version=2),
        content(format="x"),
        content(rolls=[]),
        content(rolls={"x": 5}),
        content(rolls={"x": [["1", "a", "client", "kept"]]}),
        content(rolls={"x": [["1", "a", "client", "lost", ""]]}),
        content(rolls={"x": [["1", "a", "client", "kept", "x" * 2000]]}),
        content(rolls={"x": [[1, "a", "client", "kept", ""]]}),
    ],
)
def test_a_damaged_file_is_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / ROLLS_FILE).write_bytes(content())
    assert read_rolls(tmp_path)
    (tmp_path / ROLLS_FILE).write_bytes(data)
    with pytest.raises(ValueError):
        read_rolls(tmp_path)
