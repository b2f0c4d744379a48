"""`hybridrelay._value.Value`: its methods do the same as those that attrs generates."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay._value import Value


def _make(base: type, name: str, **fields: Any) -> Any:
    """Make a frozen attrs class with these fields, which are positional."""
    return attrs.frozen(type(name, (base,), {}), these=fields)


class _Plain:
    __slots__ = ()


#: The fields of classes that are made twice: with the methods of `Value`, and with those of attrs.
CLASSES = {
    "none": {},
    "one": {"a": attrs.field()},
    "several": {"a": attrs.field(), "b": attrs.field(), "c": attrs.field()},
    "not compared": {"a": attrs.field(), "b": attrs.field(eq=False)},
    "nothing compared": {"a": attrs.field(eq=False)},
    "not shown": {"a": attrs.field(), "b": attrs.field(repr=False)},
    "shown in another form": {"a": attrs.field(repr=lambda value: f"<{value}>")},
}
ITEMS = st.one_of(st.integers(0, 2), st.sampled_from(["", "x", "y"]), st.none(), st.tuples(st.booleans()))


@pytest.mark.parametrize("fields", CLASSES.values(), ids=list(CLASSES))
@given(data=st.data())
def test_values_are_compared_and_shown_as_attrs_does(fields: dict[str, Any], data: st.DataObject) -> None:
    ours, theirs = _make(Value, "Example", **fields), _make(_Plain, "Example", **fields)
    assert vars(ours)["__eq__"] is vars(Value)["__eq__"]
    assert vars(theirs)["__eq__"] is not vars(Value)["__eq__"]
    first, second = (tuple(data.draw(ITEMS) for _ in fields) for _ in range(2))

    assert (ours(*first) == ours(*second)) is (theirs(*first) == theirs(*second))
    assert (ours(*first) != ours(*second)) is (theirs(*first) != theirs(*second))
    assert repr(ours(*first)) == repr(theirs(*first))
    if ours(*first) == ours(*second):
        assert hash(ours(*first)) == hash(ours(*second))


def test_values_of_different_classes_are_different() -> None:
    first, second = _make(Value, "First", a=attrs.field()), _make(Value, "Second", a=attrs.field())
    derived = _make(first, "Derived")

    assert first(1) != second(1)
    assert first(1) != derived(1)
    assert first(1) != 1
    assert len({first(1), first(1), second(1), derived(1)}) == 3
    assert first(1).__eq__(1) is NotImplemented


def test_a_class_keeps_the_methods_that_it_has() -> None:
    @attrs.frozen
    class Named(Value):
        name: str

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Named) and self.name.lower() == other.name.lower()

        def __hash__(self) -> int:
            return hash(self.name.lower())

        def __repr__(self) -> str:
            return f"<{self.name}>"

    assert Named("a") == Named("A")
    assert hash(Named("a")) == hash(Named("A"))
    assert repr(Named("a")) == "<a>"


def test_a_value_that_cannot_be_hashed_says_so() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(_make(Value, "Example", a=attrs.field())([]))


def test_a_value_is_frozen_and_has_slots() -> None:
    @attrs.frozen(kw_only=True)
    class Example(Value):
        a: int

    value = Example(a=1)
    assert not hasattr(value, "__dict__")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        value.a = 2  # type: ignore[misc]
    assert attrs.evolve(value, a=2) == Example(a=2)
    assert repr(value) == "Example(a=1)"


def test_a_value_that_contains_itself_can_be_shown() -> None:
    example = _make(Value, "Example", a=attrs.field())
    inside: list[object] = []
    inside.append(example(inside))

    assert repr(inside[0]) == "Example(a=[...])"
