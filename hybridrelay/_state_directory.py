"""The directory in which programs of one user keep state between runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["own_state_directory", "state_directory"]


def state_directory(environ: Mapping[str, str], home: Path | None) -> Path | None:
    """Return the state directory, which programs of this user keep between runs; None if it cannot be determined.

    Args:
        environ: ``STATE_DIRECTORY`` (systemd, possibly several), ``XDG_STATE_HOME``, on Windows ``LOCALAPPDATA``.
        home: the user's home directory, if any.
    """
    if given := environ.get("STATE_DIRECTORY", "").split(":")[0]:
        return Path(given)
    for name in ("XDG_STATE_HOME", "LOCALAPPDATA"):
        if (base := environ.get(name, "")) and os.path.isabs(base):
            return Path(base) / "hybridrelay"
    return None if home is None else home / ".local" / "state" / "hybridrelay"


def own_state_directory(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the state directory of the user as whom this program runs; None if it cannot be determined."""
    try:
        home: Path | None = Path.home()
    except RuntimeError:  # the user is not in the system's database
        home = None
    return state_directory(environ, home)
