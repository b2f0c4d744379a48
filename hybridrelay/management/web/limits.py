"""Limits in forms and tables, and their conversion between convenient units and those of the API. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import attrs
import msgspec

from ..._value import Value
from ...relay.limits import LISTENERS_PER_CONNECTION
from ...relay.quotas import MAX_BYTES, MAX_COUNT, MAX_LISTENERS, MIN_BYTES_PER_SECOND
from ..problem_kinds import Problem
from ..problems import problem
from ..sizes import bytes_of
from ..values import LimitsBody
from .forms import NOTHING_ENTERED, Entered, number_untrusted
from .html import Child, Element, h
from .parts import field
from .shown import count

__all__ = [
    "LIMIT_FIELDS",
    "connections_field",
    "limit_cells",
    "limit_columns",
    "limit_fields",
    "parse_edition",
    "parse_limits",
    "text_of_number",
]

_GB, _MB = 10**9, 10**6


@attrs.frozen
class _Limit(Value):
    """A limit as a field of a form."""

    #: The name in forms and in the API.
    name: str
    label: str
    hint: str
    #: How many units of the API are one unit of the form.
    unit: int
    #: The lowest and the highest value, in units of the API.
    lowest: int
    highest: int

    def text(self, value: int) -> str:
        """Return the text in the form for a value of the API."""
        return text_of_number(value / self.unit)

    def parse_untrusted(self, text: str) -> int:
        """Return the value in units of the API. Raises ValueError, which says what to enter."""
        try:
            value = math.floor(number_untrusted(text) * self.unit + 0.5)
        except (ValueError, OverflowError):
            raise ValueError(f"{self.label}: enter a number") from None
        if value < self.lowest:
            raise ValueError(f"{self.label}: enter at least {self.text(self.lowest)}")
        if value > self.highest:
            raise ValueError(f"{self.label}: enter at most {self.highest // self.unit}")
        return value


_RATE_HINT = "In both directions together. Sessions are slowed down. At least 0.065536 (64 KiB per second)."
_LIMITS = (
    _Limit("listeners", "Listeners", "Connectors that are registered.", 1, 1, MAX_LISTENERS),
    _Limit("senders", "Senders", "Control channels of clients.", 1, 1, MAX_COUNT),
    _Limit("sessions", "Sessions", "Pairs of data channels that are joined, or about to be.", 1, 1, MAX_COUNT),
    _Limit(
        "bytesPerMonth", "GB per month", "In both directions together, in a calendar month (UTC).", _GB, 1, MAX_BYTES
    ),
    _Limit("bytesPerSecond", "MB per second", _RATE_HINT, _MB, MIN_BYTES_PER_SECOND, MAX_BYTES),
)
_CONNECTIONS = _Limit(
    "connections",
    "Hybrid connections",
    "How many hybrid connections a relay with this edition may have.",
    1,
    0,
    MAX_COUNT,
)
_ENDS = "endAtLimit"
#: The names of all fields.
LIMIT_FIELDS = frozenset({_CONNECTIONS.name, _ENDS, *(limit.name for limit in _LIMITS)})


def _values(limits: LimitsBody) -> dict[str, int | None]:
    """Return the limits that are numbers, by their names in the API."""
    values: dict[str, int | None] = msgspec.to_builtins(limits)
    return {limit.name: values[limit.name] for limit in _LIMITS}


def _input(limit: _Limit, value: int | None, entered: Entered) -> Element:
    return field(
        limit.label,
        limit.name,
        entered.value(limit.name, "" if value is None else limit.text(value)),
        type_="number",
        min=limit.text(limit.lowest),
        max=limit.highest // limit.unit,
        step="1" if limit.unit == 1 else "any",
        hint=limit.hint,
        error=entered.error(limit.name),
    )


def connections_field(value: int | None, entered: Entered = NOTHING_ENTERED) -> Element:
    """Make the input for the number of hybrid connections of an edition."""
    return _input(_CONNECTIONS, value, entered)


def limit_fields(limits: LimitsBody, *, unset: str, entered: Entered = NOTHING_ENTERED) -> Element:
    """Make the inputs of a form. An empty input means that this limit is not set.

    Args:
        limits: the current limits.
        unset: the text of the option that leaves open what happens when the bytes of a month are used up.
        entered: the texts that were entered, if the form was refused.
    """
    values = _values(limits)
    inputs: list[Child] = [_input(limit, values[limit.name], entered) for limit in _LIMITS]
    options = (("", unset), ("false", "Only new sessions are refused"), ("true", "Sessions end"))
    chosen = entered.value(_ENDS, "" if limits.end_at_limit is None else str(limits.end_at_limit).lower())
    inputs.append(
        h(
            "div",
            h("label", "When the GB of a month are used up", for_=f"field-{_ENDS}"),
            h(
                "select",
                [h("option", label, value=value, selected=value == chosen) for value, label in options],
                id=f"field-{_ENDS}",
                name=_ENDS,
            ),
            class_="field",
        )
    )
    return h("div", inputs, class_="columns")


def parse_limits(form: Mapping[str, str]) -> dict[str, object]:
    """Convert the limits in a form to those of the API.

    Raises:
        RequestError: a value is not a number, too low or too high (400).
    """
    return _with_end(form, _parse(form, _LIMITS))


def parse_edition(form: Mapping[str, str]) -> dict[str, object]:
    """Convert the limits in the HTML form for an edition to the body that the API expects.

    Raises:
        RequestError: the same as in `parse_limits`.
    """
    found = _parse(form, (_CONNECTIONS, *_LIMITS))
    connections = found.pop(_CONNECTIONS.name, None)
    return {"connections": connections, "limits": _with_end(form, found)}


def _with_end(form: Mapping[str, str], limits: Mapping[str, int]) -> dict[str, object]:
    return {**limits, _ENDS: form[_ENDS] == "true"} if form.get(_ENDS) in {"true", "false"} else {**limits}


def _parse(form: Mapping[str, str], limits: Iterable[_Limit]) -> dict[str, int]:
    found, errors = {}, []
    for limit in limits:
        text = form.get(limit.name, "").strip()
        if not text:
            continue
        try:
            found[limit.name] = limit.parse_untrusted(text)
        except ValueError as exc:
            errors.append({"pointer": f"/limits/{limit.name}", "detail": f"{exc}, or leave it empty"})
    if errors:
        raise problem(Problem.INVALID, "a limit is not a number, or out of range", errors=errors)
    return found


def text_of_number(number: float) -> str:
    """Format a number for an input, without unnecessary zeros."""
    return f"{number:.9f}".rstrip("0").rstrip(".")


def limit_columns() -> tuple[str, ...]:
    """Return the names of the columns of `limit_cells`."""
    return tuple(limit.label for limit in _LIMITS)


def limit_cells(limits: LimitsBody) -> list[str]:
    """Return the limits as cells of a table."""
    cells: list[str] = []
    for name, value in _values(limits).items():
        if value is None and name == "listeners":
            cells.append(f"{LISTENERS_PER_CONNECTION} (default)")
        elif value is None:
            cells.append("no limit")
        elif name == "bytesPerMonth":
            cells.append(bytes_of(value))
        else:
            cells.append(f"{bytes_of(value)}/s" if name == "bytesPerSecond" else count(value))
    return cells
