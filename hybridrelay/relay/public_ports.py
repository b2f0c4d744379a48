"""The ports that connection strings have to name: the relay leaves them in its state directory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import StateError
from ..security import format_ports, parse_ports_untrusted

_FILE = "public-ports"


def save_public_ports(state_dir: Path, ports: Mapping[str, int | None]) -> None:
    """Remember ports that are not the defaults (None: not served). The relay does this at every start.

    Raises:
        StateError: the directory cannot be written to.
    """
    path, fresh = state_dir / _FILE, state_dir / f"{_FILE}.new"
    try:
        fresh.write_text(format_ports(ports) + "\n", "ascii")
        os.replace(fresh, path)
    except OSError as exc:
        raise StateError(f"cannot write {path}: {exc.strerror}", remedy="make room, or mend its permissions") from exc


def load_public_ports(state_dir: Path) -> dict[str, int | None]:
    """What `save_public_ports` saved last; empty where no relay has run with this directory yet.

    Raises:
        StateError: the file cannot be read.
    """
    path = state_dir / _FILE
    try:
        text = path.read_text("ascii").strip()
        return parse_ports_untrusted(text) if text else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise StateError(
            f"cannot read {path}: {exc}", remedy="start the relay once: it writes the file anew"
        ) from exc
