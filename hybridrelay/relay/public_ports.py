"""The ports that connection strings have to name: the relay leaves them in its state directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .._replace_file import replace_file
from .._text_files import read_text, strip_blanks
from ..errors import ConfigurationError, StateError
from ..security import format_ports, parse_ports_untrusted

_FILE = "public-ports"
_MAX_FILE = 4096
_REMEDY = "start the relay once: it writes the file again"


def save_public_ports(state_dir: Path, ports: Mapping[str, int | None]) -> None:
    """Remember ports that are not the defaults (None: not served). The relay does this at every start.

    Raises:
        StateError: the directory cannot be written to.
    """
    path = state_dir / _FILE
    try:
        replace_file(path, format_ports(ports) + "\n")
    except OSError as exc:
        raise StateError(
            f"cannot write {path}: {exc.strerror}", remedy="make room, or correct its permissions"
        ) from exc


def load_public_ports(state_dir: Path) -> dict[str, int | None]:
    """What `save_public_ports` saved last; empty where no relay has run with this directory yet.

    Raises:
        StateError: the file cannot be read.
    """
    path = state_dir / _FILE
    if not path.exists():
        return {}
    try:
        text = strip_blanks(read_text(path, what="the file", limit=_MAX_FILE))
        return parse_ports_untrusted(text) if text else {}
    except ConfigurationError as exc:
        raise StateError(str(exc), remedy=_REMEDY) from exc
    except ValueError as exc:
        raise StateError(f"{path} is damaged: {exc}", remedy=_REMEDY) from exc
