"""Which words a place in a request may have, for errors: msgspec says only that a word is not one of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import inspect

__all__ = ["words_expected_at"]


def words_expected_at(kind: type[msgspec.Struct], place: Sequence[str]) -> tuple[str, ...]:
    """The words that are possible at a place in the JSON of a class; none if it does not have one of a few words.

    Args:
        kind: the class.
        place: the names of members on the way there, and the indexes in arrays.
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
    """The type itself, without its metadata and without None."""
    while isinstance(found, inspect.Metadata | inspect.UnionType):
        if isinstance(found, inspect.Metadata):
            found = found.type
        else:
            found = next(one for one in found.types if not isinstance(one, inspect.NoneType))
    return found
