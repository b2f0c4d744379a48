"""The text by which the registry stores limits: JSON with the limits that are set."""

from __future__ import annotations

import json

import attrs

from ..quotas import Limits

__all__ = ["dump_limits", "parse_limits"]

_NAMES = frozenset(field.name for field in attrs.fields(Limits))


def dump_limits(limits: Limits) -> str:
    """Return the text for `parse_limits`."""
    return json.dumps({name: value for name, value in attrs.asdict(limits).items() if value is not None})


def parse_limits(text: str) -> Limits:
    """Parse text from the registry.

    Raises:
        ValueError: it is not what `dump_limits` writes.
    """
    found = json.loads(text)
    if not isinstance(found, dict) or not found.keys() <= _NAMES:
        raise ValueError("limits are not an object of limits")
    for name, value in found.items():
        if type(value) is not (bool if name == "end_at_limit" else int):
            raise ValueError(f"the limit {name} has the wrong type")
    return Limits(**found)
