"""Formats amounts of data. Pure."""

from __future__ import annotations

__all__ = ["bytes_of"]

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")


def bytes_of(number: float) -> str:
    """Format an amount of data in decimal units, like those of networks and editions: ``1.2 GB``."""
    value = float(number)
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    if unit == "bytes":
        return "1 byte" if int(value) == 1 else f"{int(value)} bytes"
    return f"{value:.0f} {unit}" if value >= 99.5 else f"{value:.1f} {unit}"
