"""Says which programs a relay does not count when it says how many have a new key or an update."""

from __future__ import annotations

from .times import utc_text

__all__ = ["not_counted"]


def not_counted(began_at: float, seen_since: float | None) -> str:
    """Return a sentence for people; empty if the relay knows about all programs.

    Args:
        began_at: when the update was pushed, or the roll began (seconds since 1970).
        seen_since: since when the relay has noted who has it; None if no relay runs.
    """
    if seen_since is None:
        return "No relay runs with this state directory, so it is not known which programs have it."
    if seen_since > began_at:
        at = utc_text(seen_since)
        return f"The relay was started at {at}. Programs that have not connected since then are not counted."
    return ""
