"""The base class of values: frozen attrs classes that share their methods for comparison and display."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from attr import Attribute

__all__ = ["Value"]


class Value:
    """The base class of a frozen attrs class. Two values are equal if their classes are the same and their fields are
    equal.

    Its methods do the same as those that attrs generates. attrs compiles its own for each class when the class is
    made, and a program makes 400 to 500 classes when it starts. With generated methods, a program would need a fifth
    more processor time until it is ready. They are faster, which matters only where values are compared all the time.
    """

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        """Give the class methods of its own, because attrs replaces those that it only inherits."""
        super().__init_subclass__()
        for name in ("__repr__", "__eq__", "__hash__"):
            if name not in vars(cls):
                setattr(cls, name, vars(Value)[name])

    @recursive_repr("...")
    def __repr__(self) -> str:
        # A class that is local to a function has ``<locals>.`` in its name.
        name = type(self).__qualname__.rsplit(">.", 1)[-1]
        return f"{name}({', '.join(_shown(self))})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        compared = _compared_of(type(self))
        return compared(self) == compared(other)

    def __hash__(self) -> int:
        return hash((type(self), _compared_of(type(self))(self)))


def _fields(cls: type[Value]) -> Iterable[Attribute[object]]:
    assert attrs.has(cls)
    fields: Iterable[Attribute[object]] = attrs.fields(cls)
    return fields


def _shown(value: Value) -> Iterator[str]:
    for field in _fields(type(value)):
        if field.repr is not False:
            show = repr if field.repr is True else field.repr
            yield f"{field.name}={show(getattr(value, field.name))}"


#: For each class, a function that returns the fields of a value that are compared.
_compared: dict[type[Value], Callable[[Value], object]] = {}


def _compared_of(cls: type[Value]) -> Callable[[Value], object]:
    compared = _compared.get(cls)
    if compared is None:
        names = [field.name for field in _fields(cls) if field.eq]
        compared = _compared[cls] = attrgetter(*names) if names else lambda _: None
    return compared
