"""Formats times for people."""

from __future__ import annotations

import datetime as dt

__all__ = ["utc_text"]


def utc_text(seconds: float) -> str:
    """Return a time as text, such as ``2026-01-02T03:04:05Z``.

    Args:
        seconds: the time in seconds since 1970. It may come from a relay, so it may be any number.
    """
    try:
        return dt.datetime.fromtimestamp(int(seconds), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return "at an impossible time"
