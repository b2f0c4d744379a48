"""Values in order of hybrid connection and key, in pages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.relay.core.sorted_index import Position, SortedIndex

NAMES = st.text("ab/\U0010ffff", min_size=1, max_size=3)


@given(
    st.lists(st.tuples(st.booleans(), NAMES, NAMES), max_size=40),
    st.integers(1, 5),
    st.one_of(st.none(), NAMES),
    st.one_of(st.none(), st.tuples(NAMES, NAMES)),
)
def test_pages_are_what_sorting_gives(
    changes: list[tuple[bool, str, str]], limit: int, connection: str | None, after: Position | None
) -> None:
    index: SortedIndex[int] = SortedIndex()
    model: dict[Position, int] = {}
    for number, (is_set, *position) in enumerate(changes):
        name, key = position
        if is_set:
            index.set(name, key, number)
            model[name, key] = number
        else:
            index.discard(name, key)
            model.pop((name, key), None)
        assert index.get(name, key) == model.get((name, key))
    assert len(index) == len(model)
    names = {name for name, _ in model}
    assert all(index.count(name) == sum(one == name for one, _ in model) for name in (*names, "c"))
    expected = [one for one in sorted(model.items()) if connection in (None, one[0][0])]
    if after is not None:
        expected = [one for one in expected if one[0] > after]
    assert index.page(limit, after=after, connection=connection) == expected[:limit]
