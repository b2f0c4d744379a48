"""The local time of the machine, which no environment variable changes."""

from __future__ import annotations

import datetime as dt
import functools
import sys

__all__ = ["local_now"]

#: The time zone of the machine, as its administrator has set it. `TZ` is not used: a user could widen the allowed
#: hours with it.
_ZONE_FILE = "/etc/localtime"


def local_now() -> dt.datetime:
    """Return the local time of the machine. Without a time zone, it is UTC, as in systemd."""
    if sys.platform == "win32":
        return _windows_now()
    else:  # noqa: RET505 - mypy does not check what follows a return on another platform
        return dt.datetime.now(_zone())


@functools.cache
def _zone() -> dt.tzinfo:
    """Return the time zone; another one takes effect when the program is restarted."""
    import zoneinfo  # imported here, because few policies depend on the time

    try:
        with open(_ZONE_FILE, "rb") as file:
            return zoneinfo.ZoneInfo.from_file(file)
    except (OSError, ValueError):
        return dt.UTC


if sys.platform == "win32":
    import ctypes

    def _windows_now() -> dt.datetime:
        # A SYSTEMTIME: year, month, day of the week, day, hour, minute, second, milliseconds.
        fields = (ctypes.c_uint16 * 8)()
        ctypes.windll.kernel32.GetLocalTime(fields)
        year, month, _, day, hour, minute, second, _ = fields
        return dt.datetime(year, month, day, hour, minute, second)  # noqa: DTZ001
