"""The index of control channels: what it finds is what a search through all of them would find."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.relay.service.channel_index import ChannelIndex

NAMES = st.frozensets(st.sampled_from("abc"))


@given(st.lists(st.tuples(st.integers(0, 4), NAMES)), NAMES)
def test_it_finds_what_a_search_would_find(steps: list[tuple[int, frozenset[str]]], wanted: frozenset[str]) -> None:
    index, concerns = ChannelIndex[int](), dict[int, frozenset[str]]()
    for channel, names in steps:
        index.update(channel, concerns.get(channel, frozenset()), names)
        concerns[channel] = names
    found = index.of(sorted(wanted))
    assert len(found) == len(set(found))
    assert set(found) == {channel for channel, names in concerns.items() if names & wanted}
    assert len(index) == len({name for names in concerns.values() for name in names})
    for channel, names in concerns.items():
        index.update(channel, names, ())
    assert len(index) == 0
