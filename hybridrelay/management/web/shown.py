"""Formats values for pages: numbers with units, times, names. Pure."""

from __future__ import annotations

import datetime as dt
import urllib.parse

from .html import Child, Element, h

__all__ = ["count", "duration", "moment", "name_of", "plural", "present", "segment"]


def count(number: int) -> str:
    """Format a number with narrow spaces between the thousands."""
    return f"{number:,}".replace(",", "\u202f")


def plural(number: int, one: str, many: str = "") -> str:
    """Format a number with its noun: ``1 listener``, ``2 listeners``."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def present(listeners: int, senders: int, sessions: int) -> str:
    """Format the numbers of what is present: ``1 listener, 2 senders, 0 sessions``."""
    return ", ".join((plural(listeners, "listener"), plural(senders, "sender"), plural(sessions, "session")))


def moment(seconds: float | None, *, otherwise: str = "never") -> Child:
    """Format a time (seconds since 1970). The page's script converts it to the time zone of the browser."""
    if seconds is None:
        return otherwise
    try:
        time = dt.datetime.fromtimestamp(seconds, dt.UTC)
    except (ValueError, OverflowError, OSError):
        return otherwise
    exact = time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return h("time", time.strftime("%Y-%m-%d %H:%M:%S UTC"), datetime=exact)


def duration(seconds: float) -> str:
    """Format a duration: ``3 days``, ``2 h 5 min``, ``12 s``."""
    whole = max(0, int(seconds))
    days, rest = divmod(whole, 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    if days:
        return plural(days, "day") + (f" {hours} h" if hours and days < 10 else "")
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{left} s"


def name_of(text: str) -> Element:
    """Make the element for a name or text from outside. The direction of its script does not affect the text around
    it."""
    return h("bdi", text)


def segment(text: str) -> str:
    """Encode a name as one segment of a path."""
    return urllib.parse.quote(text, safe="")
