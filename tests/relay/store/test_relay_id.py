"""The id of a relay: random, kept in the state directory, and never the one that stands for no relay."""

from __future__ import annotations

import logging
import stat
import sys
from pathlib import Path

import pytest

from hybridrelay.errors import StateError
from hybridrelay.protocol.preamble import NO_RELAY
from hybridrelay.relay.store.relay_id import RELAY_ID_FILE, load_or_create_relay_id, new_relay_id


def test_it_stays_the_same_over_restarts_and_two_relays_differ(tmp_path: Path) -> None:
    ids = []
    for name in ("one", "other"):
        state = tmp_path / name
        state.mkdir()
        first = load_or_create_relay_id(state)
        assert load_or_create_relay_id(state) == load_or_create_relay_id(state) == first
        assert len(first) == 4
        ids.append(first)
    assert ids[0] != ids[1]


def test_it_is_never_zero() -> None:
    made = iter([bytes(4), bytes(4), b"abcd"])
    assert new_relay_id(lambda size: next(made)) == b"abcd"


@pytest.mark.parametrize("newline", ["", "\n", "\r\n"])
def test_it_is_read_with_or_without_a_newline(tmp_path: Path, newline: str) -> None:
    (tmp_path / RELAY_ID_FILE).write_bytes(f"01abCDef{newline}".encode())
    assert load_or_create_relay_id(tmp_path) == bytes.fromhex("01abcdef")


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"0102030", b"010203040", b"xyzxyzxy", b"00000000", b"01 02", b"\xff" * 9]
)
def test_a_damaged_file_is_an_error_with_a_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RELAY_ID_FILE).write_bytes(content)
    with pytest.raises(StateError, match=RELAY_ID_FILE) as caught:
        load_or_create_relay_id(tmp_path)
    assert caught.value.remedy
    assert (tmp_path / RELAY_ID_FILE).read_bytes() == content


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")
def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    load_or_create_relay_id(tmp_path)
    assert stat.S_IMODE((tmp_path / RELAY_ID_FILE).stat().st_mode) == 0o600


def test_a_relay_whose_id_cannot_be_written_has_one_until_it_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = tmp_path / "not there"
    with caplog.at_level(logging.ERROR):
        made = load_or_create_relay_id(missing)
    assert len(made) == 4
    assert made != NO_RELAY
    assert "a different one after its next start" in caplog.text
