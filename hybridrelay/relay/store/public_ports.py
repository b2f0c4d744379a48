"""The ports for connection strings, which the relay saves in its state directory."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from ..._replace_file import replace_file
from ..._text_files import read_text, strip_blanks
from ...errors import ConfigurationError, StateError
from ...events.plain_log import plainly_logged_events
from ...events.relay_resources import PublicPortsNotSaved
from ...events.stream import EventStream
from ...security import format_ports, parse_ports_untrusted

_FILE = "public-ports"
_MAX_FILE = 4096
_REMEDY = "start the relay once: it writes the file again"


def save_public_ports(state_dir: Path, ports: Mapping[str, int | None], *, events: EventStream | None = None) -> None:
    """Save the ports that differ from the defaults (None: not served). The relay does this at every start, and when
    its configuration is changed.

    The file is for the commands that make connection strings. The relay itself does not need it, so if it cannot be
    written, for example to a full disk, the relay starts anyway and publishes an event. `events` is the stream to
    which events are published; None means the log.
    """
    path = state_dir / _FILE
    text = format_ports(ports) + "\n"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path.read_text("ascii") == text:
            return
    try:
        replace_file(path, text)
    except OSError as exc:
        stream = plainly_logged_events() if events is None else events
        stream.publish(PublicPortsNotSaved(file=str(path), detail=exc.strerror or str(exc)))


def relay_has_run(state_dir: Path) -> bool:
    """Return whether a relay has been started with this state directory, so that its ports are known."""
    return (state_dir / _FILE).exists()


def load_public_ports(state_dir: Path) -> dict[str, int | None]:
    """Return what `save_public_ports` has saved; empty if no relay has been started with this directory yet.

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
