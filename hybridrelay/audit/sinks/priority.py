"""The severity of records as syslog and the journal count it. Pure."""

from __future__ import annotations

__all__ = ["priority_of"]


def priority_of(level: int) -> int:
    """Return the severity of RFC 5424 (3: error, 4: warning, 6: informational) for a level of `logging`.

    Records of the level debug are informational: in an audit log, the level says how unusual something is, and not
    whether it is needed.
    """
    if level >= 40:
        return 3
    return 4 if level >= 30 else 6
