"""The Prometheus text format, version 0.0.4. Pure.

This module is used instead of prometheus-client, so that ``/metrics`` works in every installation and needs no
further import. A test parses the result with that library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

__all__ = ["MEDIA_TYPE", "Sample", "counter", "gauge", "histogram"]

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Labels by name, and the value.
Sample: TypeAlias = tuple[Mapping[str, str], float]


def counter(name: str, text: str, samples: Iterable[Sample]) -> str:
    """Return a family of counters, whose name ends in ``_total``."""
    return _family(name, "counter", text, samples)


def gauge(name: str, text: str, samples: Iterable[Sample]) -> str:
    """Return a family of gauges."""
    return _family(name, "gauge", text, samples)


def histogram(name: str, text: str, bounds: Sequence[float], counts: Sequence[int], total: float) -> str:
    """Return a histogram without labels.

    Args:
        name: the name of the family.
        text: the help text.
        bounds: the upper bounds of the buckets, in increasing order.
        counts: the number of observations in each bucket, and of those above the last bound.
        total: the sum of all observations.
    """
    lines, sum_of_counts = [_head(name, "histogram", text)], 0
    for bound, count in zip((*map(_number, bounds), "+Inf"), counts, strict=True):
        sum_of_counts += count
        lines.append(f'{name}_bucket{{le="{bound}"}} {sum_of_counts}')
    lines += [f"{name}_sum {_number(total)}", f"{name}_count {sum_of_counts}\n"]
    return "\n".join(lines)


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> str:
    lines = [_head(name, kind, text)]
    for labels, value in samples:
        written = ",".join(f'{label}="{_escaped(one)}"' for label, one in labels.items())
        lines.append(f"{name}{{{written}}} {_number(value)}" if written else f"{name} {_number(value)}")
    return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(value)
