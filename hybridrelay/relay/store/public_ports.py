"""The ports that connection strings have to name: the relay leaves them in its state directory."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path

from ..._replace_file import replace_file
from ..._text_files import read_text, strip_blanks
from ...errors import ConfigurationError, StateError
from ...security import format_ports, parse_ports_untrusted

logger = logging.getLogger("hybridrelay.relay")

_FILE = "public-ports"
_MAX_FILE = 4096
_REMEDY = "start the relay once: it writes the file again"


def save_public_ports(state_dir: Path, ports: Mapping[str, int | None]) -> None:
    """Remember ports that are not the defaults (None: not served). The relay does this at every start.

    The file is for the commands that make connection strings. A relay serves without it, so that a full disk does not
    keep it from starting: what cannot be written is logged.
    """
    path = state_dir / _FILE
    text = format_ports(ports) + "\n"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path.read_text("ascii") == text:
            return
    try:
        replace_file(path, text)
    except OSError as exc:
        logger.error(
            "cannot write %s (%s): until it is written, 'connections create' does not know the ports of this relay; "
            "make room or correct its permissions, then restart the relay",
            path,
            exc.strerror,
        )


def relay_has_run(state_dir: Path) -> bool:
    """Whether a relay has been started with this state directory, so that `load_public_ports` knows its ports."""
    return (state_dir / _FILE).exists()


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
