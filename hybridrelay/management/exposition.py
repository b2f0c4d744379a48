"""The Prometheus text format, version 0.0.4. Pure.

Written here and not by prometheus-client: it is a page of code, ``/metrics`` then works in every installation, and
the relay loads nothing for it. A test has that library parse the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

__all__ = ["MEDIA_TYPE", "Sample", "counter", "gauge", "histogram"]

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Labels by name, and the value.
Sample: TypeAlias = tuple[Mapping[str, str], float]


def counter(name: str, text: str, samples: Iterable[Sample]) -> str:
    """One family of counters; the name ends in ``_total``."""
    return _family(name, "counter", text, samples)


def gauge(name: str, text: str, samples: Iterable[Sample]) -> str:
    """One family of gauges."""
    return _family(name, "gauge", text, samples)


def histogram(name: str, text: str, bounds: Sequence[float], counts: Sequence[int], total: float) -> str:
    """A histogram without labels.

    Args:
        name: the name of the family.
        text: the help text.
        bounds: upper bounds of the buckets, growing.
        counts: by bucket, and one more for what is above the last bound.
        total: the sum of everything that was observed.
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
