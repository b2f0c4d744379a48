"""Says which programs a relay does not count when it says how many have a new key or an update."""

from __future__ import annotations

from .times import utc_text

__all__ = ["not_counted"]

#: See docs/threat-model.md, "Programs that a relay remembers".
_CROWDED = "The relay had no room to note more programs. The others were given it too, but are not counted."


def not_counted(began_at: float, seen_since: float | None, *, is_crowded: bool) -> str:
    """Return sentences for people; empty if the relay knows about all programs.

    Args:
        began_at: when the update was pushed, or the roll began (seconds since 1970).
        seen_since: since when the relay has noted who has it; None if no relay runs.
        is_crowded: whether there was no room for other programs.
    """
    if seen_since is None:
        return "No relay runs with this state directory, so it is not known which programs have it."
    found = []
    if seen_since > began_at:
        at = utc_text(seen_since)
        found.append(f"The relay was started at {at}. Programs that have not connected since then are not counted.")
    if is_crowded:
        found.append(_CROWDED)
    return "\n".join(found)
