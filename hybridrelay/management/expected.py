"""Finds the words that are possible at a position in a request. The errors of msgspec do not list them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import inspect

__all__ = ["words_expected_at"]


def words_expected_at(kind: type[msgspec.Struct], place: Sequence[str]) -> tuple[str, ...]:
    """Return the words that are possible at a position in the JSON of a class; none if it is not an enumeration.

    Args:
        kind: the class.
        place: the path to the position: names of members, and indexes in arrays.
    """
    found = inspect.type_info(kind)
    for part in place:
        found = _inner(found)
        match found:
            case inspect.StructType(fields=fields):
                types = [field.type for field in fields if field.encode_name == part]
                if not types:
                    return ()
                found = types[0]
            case inspect.VarTupleType(item_type=item):
                found = item
            case _:
                return ()
    found = _inner(found)
    return tuple(map(str, found.values)) if isinstance(found, inspect.LiteralType) else ()


def _inner(found: inspect.Type) -> inspect.Type:
    """Return the type itself, without its metadata and without None."""
    while isinstance(found, inspect.Metadata | inspect.UnionType):
        if isinstance(found, inspect.Metadata):
            found = found.type
        else:
            found = next(one for one in found.types if not isinstance(one, inspect.NoneType))
    return found
