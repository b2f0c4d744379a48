"""Limits in forms and tables, and their conversion between convenient units and those of the API. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..problem_kinds import Problem
from ..problems import problem
from ..values import LimitsBody
from .html import Child, Element, h
from .parts import field
from .shown import bytes_of, count

__all__ = ["limit_cells", "limit_columns", "limit_fields", "parse_limits", "text_of_number"]

_GB, _MB = 10**9, 10**6
#: The name in forms and in the API, the label, the hint, and how many units of the API are one unit in the form.
_LIMITS = (
    ("listeners", "Listeners", "Connectors that are registered.", 1),
    ("senders", "Senders", "Control channels of clients.", 1),
    ("sessions", "Sessions", "Pairs of data channels that are joined.", 1),
    ("bytesPerPeriod", "GB per month", "In both directions together, in a calendar month (UTC).", _GB),
    ("bytesPerSecond", "MB per second", "In both directions together. Sessions are slowed down.", _MB),
)
_ENDS = "endAtLimit"


def _values(limits: LimitsBody) -> dict[str, int | None]:
    """The limits that are numbers, by their names in the API."""
    values: dict[str, int | None] = msgspec.to_builtins(limits)
    return {name: values[name] for name, *_ in _LIMITS}


def limit_fields(limits: LimitsBody, *, unset: str) -> Element:
    """Make the inputs of a form. An empty input means that this limit is not set.

    Args:
        limits: what they show.
        unset: the text of the option that does not set what happens when the bytes of a month are used up.
    """
    values = _values(limits)
    inputs: list[Child] = []
    for name, label, hint, unit in _LIMITS:
        value = values[name]
        shown = "" if value is None else text_of_number(value / unit)
        step = "1" if unit == 1 else "any"
        inputs.append(field(label, name, shown, type_="number", min=0, step=step, hint=hint))
    options = (("", unset), ("false", "Only new sessions are refused"), ("true", "Sessions end"))
    chosen = "" if limits.end_at_limit is None else str(limits.end_at_limit).lower()
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
    """Return the limits in a form, in the form of the API.

    Raises:
        RequestError: one of them is not a number (400).
    """
    found: dict[str, object] = {}
    for name, label, _, unit in _LIMITS:
        text = form.get(name, "").strip()
        if not text:
            continue
        try:
            value = float(text)
            found[name] = int(value * unit + 0.5)
        except (ValueError, OverflowError) as exc:
            raise problem(
                Problem.INVALID, f"{label}: the value is not a number", remedy="leave it empty for no limit"
            ) from exc
    if form.get(_ENDS) in {"true", "false"}:
        found[_ENDS] = form[_ENDS] == "true"
    return found


def text_of_number(number: float) -> str:
    """Format a number for an input, without unnecessary zeros."""
    return f"{number:.6f}".rstrip("0").rstrip(".")


def limit_columns() -> tuple[str, ...]:
    """Return the names of the columns of `limit_cells`."""
    return tuple(label for _, label, _, _ in _LIMITS)


def limit_cells(limits: LimitsBody) -> list[str]:
    """Return the limits as cells of a table."""
    cells: list[str] = []
    for name, value in _values(limits).items():
        if value is None:
            cells.append("no limit")
        elif name == "bytesPerPeriod":
            cells.append(bytes_of(value))
        else:
            cells.append(f"{bytes_of(value)}/s" if name == "bytesPerSecond" else count(value))
    return cells
