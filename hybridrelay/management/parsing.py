"""Parses query strings, and finds the part of a request that is wrong. Pure."""

from __future__ import annotations

import re
import urllib.parse
from typing import TypeVar

import msgspec

from ..http import RequestError
from .expected import words_expected_at
from .problem_kinds import Problem
from .problems import problem

__all__ = ["invalid", "parse_query_untrusted"]

StructT = TypeVar("StructT", bound=msgspec.Struct)

#: msgspec's messages name the place at the end: "Expected `str`, got `int` - at `$.rights[0]`".
_PLACE = re.compile(r"(.*) - at `(?:key in )?\$(.*)`", re.DOTALL)
_SUBSCRIPT = re.compile(r"\.([A-Za-z]+)|\[(\d+|\.\.\.)\]")


def parse_query_untrusted(query: str | None, kind: type[StructT]) -> StructT:
    """Parse a query string. Raises RequestError."""
    try:
        pairs = urllib.parse.parse_qsl(
            query or "", keep_blank_values=True, strict_parsing=bool(query), errors="strict", max_num_fields=20
        )
        if len(dict(pairs)) != len(pairs):
            raise msgspec.ValidationError("a parameter is given twice")
        parsed = msgspec.convert(dict(pairs), kind, strict=False)
        for field in msgspec.structs.fields(kind):
            # `convert` turns the text null into None, which is reserved for parameters that were omitted.
            if field.encode_name in dict(pairs) and getattr(parsed, field.name) is None:
                raise msgspec.ValidationError(f"null is not a value of a parameter - at `$.{field.encode_name}`")
        return parsed
    except (msgspec.ValidationError, ValueError) as exc:
        raise invalid("the query does not match this operation", exc, "?", kind) from exc


def invalid(detail: str, exc: Exception, root: str, kind: type[msgspec.Struct]) -> RequestError:
    """Return the error for a request that msgspec has refused.

    Args:
        detail: a sentence for people.
        exc: the exception of msgspec.
        root: the pointer to what was parsed: empty for the body, ``?`` for the query.
        kind: the expected type.
    """
    text, pointer = "it is malformed", root
    if isinstance(exc, msgspec.ValidationError):
        text = str(exc)
        if match := _PLACE.fullmatch(text):
            text = match[1]
            place = [name or index for name, index in _SUBSCRIPT.findall(match[2])]
            pointer = root + "".join(f"/{part}" for part in place)
            if words := words_expected_at(kind, place):
                text += f"; possible values: {', '.join(words)}"
    return problem(
        Problem.INVALID,
        detail,
        remedy="compare it with the schema of this operation in /openapi.json",
        errors=[{"pointer": pointer, "detail": text}],
    )
