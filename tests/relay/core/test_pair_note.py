"""Notes about pairs: what is written can be read, fits into the memory, and anything else is refused."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.protocol.limits import MAX_CONNECTION_NAME
from hybridrelay.relay.core.pair_note import PairNote
from hybridrelay.relay.core.pairs import PairEnd
from hybridrelay.relay.model import KeyId
from hybridrelay.relay.service.worker_memory import MAX_NOTE
from hybridrelay.security import KeySlot
from hybridrelay.security.rules import MAX_RULE_NAME

_names = st.text("abcXYZ019._-", min_size=1, max_size=40)
_numbers = st.integers(0, (1 << 63) - 1)
_instances = st.one_of(st.just(""), st.text("0123456789abcdef", min_size=32, max_size=32))


def _ends(connection: str) -> st.SearchStrategy[PairEnd]:
    key = st.builds(
        KeyId,
        st.just(connection),
        _names,
        st.sampled_from(KeySlot),
        _numbers,
    )
    return st.builds(PairEnd, _instances, st.sampled_from(["", "203.0.113.7", "2001:db8::/64"]), key, _names)


notes = _names.filter(lambda name: name not in (".", "..")).flatmap(
    lambda connection: st.builds(
        PairNote,
        st.text("0123456789abcdef", min_size=32, max_size=32),
        _ends(connection),
        _ends(connection),
        st.floats(0, 1e12),
        st.integers(0, (1 << 56) - 1),
        st.integers(0, (1 << 56) - 1),
    )
)


def longest() -> PairNote:
    key = KeyId("c" * MAX_CONNECTION_NAME, "r" * MAX_RULE_NAME, KeySlot.SECONDARY, (1 << 63) - 1)
    end = PairEnd("f" * 32, '"' * 1000, key, "\\" * 1000)
    return PairNote("e" * 32, end, end, 1e300 / 3, (1 << 56) - 1, (1 << 56) - 1)


@given(notes)
def test_what_is_written_can_be_read(note: PairNote) -> None:
    assert PairNote.decode(note.encode()) == note


def test_the_longest_fits_into_the_memory() -> None:
    data = longest().encode()
    assert len(data) <= MAX_NOTE
    assert PairNote.decode(data).connection == "c" * MAX_CONNECTION_NAME


@given(st.binary())
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        PairNote.decode(data)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
)


@given(notes, st.integers(0, 16), _values)
def test_a_wrong_value_is_refused_or_is_another_note(note: PairNote, position: int, value: Any) -> None:
    values = json.loads(note.encode())
    values[position] = value
    try:
        read = PairNote.decode(json.dumps(values).encode())
    except ValueError:
        return
    assert json.loads(read.encode()) == values


@pytest.mark.parametrize("data", [b"[" * 1500, b"{}", b"[]", b"7", b'"' + b"x" * 17 + b'"'])
def test_json_of_another_kind_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        PairNote.decode(data)


@pytest.mark.parametrize("name", ["\u20ac" * 100, "\0" * 100, "\udc80x", "fe80::1%eth0"])
def test_names_that_are_unusual_do_not_make_a_note_unreadable(name: str) -> None:
    note = longest()
    end = attrs.evolve(note.sender, address=name, transport=name)
    data = attrs.evolve(note, sender=end, listener=end).encode()
    assert len(data) <= MAX_NOTE
    assert len(PairNote.decode(data).sender.address) == min(len(name), 48)


def test_both_ends_belong_to_one_hybrid_connection() -> None:
    note = attrs.evolve(longest(), to_client=1)
    read = PairNote.decode(note.encode())
    assert read.listener.key.connection == read.sender.key.connection == read.connection
