"""The id of a relay, stored in its state directory: the first four bytes of all its tickets. SPEC.md, section 1."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from ..._replace_file import create_file_once
from ..._text_files import read_text, strip_blanks
from ...errors import ConfigurationError, StateError
from ...events.plain_log import plainly_logged_events
from ...events.relay_resources import RelayIdNotSaved
from ...events.stream import EventStream
from ...protocol.preamble import NO_RELAY, RELAY_ID_SIZE

__all__ = ["RELAY_ID_FILE", "load_or_create_relay_id", "new_relay_id"]

#: The id, as 8 hexadecimal digits, inside the state directory.
RELAY_ID_FILE = "relay-id"
_MAX_FILE = 64


def new_relay_id(token_bytes: Callable[[int], bytes] = secrets.token_bytes) -> bytes:
    """Return a random id. It is never `NO_RELAY`, with which the tickets of probes begin."""
    while (made := token_bytes(RELAY_ID_SIZE)) == NO_RELAY:
        pass
    return made


def load_or_create_relay_id(state_dir: Path, *, events: EventStream | None = None) -> bytes:
    """Return the id of the relay with this state directory. At the first start, a new one is made and saved. Blocks.

    If the id cannot be saved, the relay has a different one after its next start, and `RelayIdNotSaved` is published
    to `events` (None means the log).

    Raises:
        StateError: the file cannot be read, or is damaged.
    """
    path = state_dir / RELAY_ID_FILE
    if path.exists():
        return _load(path)
    made = new_relay_id()
    try:
        if not create_file_once(path, made.hex().encode() + b"\n"):
            return _load(path)  # another process has created the file in the meantime
    except OSError as exc:
        stream = plainly_logged_events() if events is None else events
        stream.publish(RelayIdNotSaved(file=str(path), detail=exc.strerror or str(exc)))
    return made


def _load(path: Path) -> bytes:
    remedy = f"delete {path}: the relay makes a new id when it starts"
    try:
        text = strip_blanks(read_text(path, what="the file", limit=_MAX_FILE))
    except ConfigurationError as exc:
        raise StateError(str(exc), remedy=exc.remedy) from exc
    try:
        found = bytes.fromhex(text) if text.isascii() else b""
    except ValueError:
        found = b""
    if len(found) != RELAY_ID_SIZE or found == NO_RELAY:
        raise StateError(f"{path} is damaged: it does not contain 8 hexadecimal digits", remedy=remedy)
    return found
