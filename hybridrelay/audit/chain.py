"""The format of audit files, and how lines are written. Pure, except that keys sign.

An audit file has one JSON object in each line. Each line contains the SHA-256 of the line before it, so that all
lines of all files are one chain. Every few lines there is a *checkpoint*: a line with a signature over the lines
before it. docs/audit.md describes the format, and `verification.py` reads it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Final, TypeAlias

import attrs

from .._value import Value
from .keys import SigningKey, VerifyingKey

__all__ = [
    "CHECKPOINT_BYTES",
    "FORMAT",
    "MAX_LINE",
    "RESERVED",
    "START",
    "Chain",
    "Checkpoint",
    "FieldValue",
    "Position",
    "checkpoint_message",
    "continued_message",
    "encodable",
    "file_name",
    "file_number",
    "hash_of",
    "largest_line",
    "time_text",
]

#: The version of the format, in the first line of each file.
FORMAT: Final = 1
#: The longest line in bytes, with its line end. Longer ones were not written by this program.
MAX_LINE: Final = 64 * 1024
#: A checkpoint is not longer than this (bytes).
CHECKPOINT_BYTES: Final = 512
#: The longest text in a field (characters). Longer ones are cut.
_MAX_TEXT = 4096
#: The most elements of a list. Further ones are omitted.
_MAX_ELEMENTS = 100
#: The names of the fields that every line has. No event has fields with these names.
RESERVED: Final = ("seq", "prev", "at", "event")

#: The type of a field's value.
FieldValue: TypeAlias = str | int | float | bool | list[str] | Mapping[str, str | int] | None

_FILE_NAME = re.compile(r"audit-([0-9]{20})\.jsonl(?:\.gz)?")


@attrs.frozen
class Position(Value):
    """The end of a chain: its last record.

    A record is a line; its number is that in the log, not that in its file.
    """

    #: The number of the record; 0 if there is none.
    seq: int
    #: The SHA-256 of the bytes of its line, with the line end, in hexadecimal.
    head: str


@attrs.frozen
class Checkpoint(Value):
    """A signature over all lines up to one, as other sinks and relays keep it."""

    #: The id of the log: 16 hexadecimal digits.
    log_id: str
    #: The number of the last record that is signed, and its hash.
    seq: int
    head: str
    #: When it was signed, as in the record; this field and the next two are empty if the signature is not known.
    at: str = ""
    #: The public key of the file, as text, and the signature in base64.
    key: str = ""
    signature: str = ""

    def is_signed_with(self, key: VerifyingKey) -> bool:
        """Return whether this key has made the signature."""
        return self.key == str(key) and key.verifies(self.signature, checkpoint_message(self.seq, self.head, self.at))


#: Where a chain begins.
START: Final = Position(0, "0" * 64)


def hash_of(line: bytes) -> str:
    """Return the hash of a line, which includes its line end."""
    return hashlib.sha256(line).hexdigest()


def time_text(seconds: float) -> str:
    """Return a time as text: RFC 3339 in UTC, with milliseconds.

    Args:
        seconds: since 1970.
    """
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def largest_line(event: str, fields: Mapping[str, FieldValue]) -> int:
    """Return a size in bytes that the line of an event does not exceed. It takes less time than making the line."""
    return min(MAX_LINE, 256 + len(event) + sum(len(name) + 8 + _largest(value) for name, value in fields.items()))


def _largest(value: FieldValue) -> int:
    if isinstance(value, str):
        return 7 * min(len(value), _MAX_TEXT + 1)  # half a surrogate pair becomes 7 bytes
    if isinstance(value, list):
        return sum(7 * min(len(one), _MAX_TEXT) + 3 for one in value[:_MAX_ELEMENTS])
    return 32


def file_name(first: int) -> str:
    """Return the name of the file whose first record has this number."""
    return f"audit-{first:020}.jsonl"


def file_number(name: str) -> int | None:
    """Return the number of the first record of a file, which may be compressed; None for other files."""
    found = _FILE_NAME.fullmatch(name)
    return None if found is None else int(found[1])


def checkpoint_message(seq: int, head: str, at: str) -> bytes:
    """Return what the signature of a checkpoint signs."""
    return f"hybridrelay audit checkpoint v1\n{seq}\n{head}\n{at}\n".encode("utf-8", "replace")


def continued_message(seq: int, head: str, at: str, next_file: str, new_key: str) -> bytes:
    """Return what the signature in the last line of a file signs."""
    return f"hybridrelay audit continued v1\n{seq}\n{head}\n{at}\n{next_file}\n{new_key}\n".encode("utf-8", "replace")


@attrs.define
class Chain:
    """Makes the lines that follow a position. If a line could not be written, discard this object.

    Args:
        key: signs the checkpoints.
        position: the last record that exists.
        log_id: the id of the log.
    """

    key: SigningKey
    position: Position = START
    log_id: str = ""
    #: The last checkpoint that was made here; None before the first.
    signed: Checkpoint | None = attrs.field(default=None, init=False)

    def opened(self, at: str, software: str, oldest: int | None = None) -> bytes:
        """Return the first line of a file, which names the file's key.

        Args:
            at: the time, from `time_text`.
            software: name and version of the program.
            oldest: the number of the first record that has to exist; None if not known.
        """
        fields: dict[str, FieldValue] = {
            "format": FORMAT,
            "log": self.log_id,
            "key": str(self.key.public),
            "software": software,
            **({} if oldest is None else {"oldest": oldest}),
        }
        return self.record(at, "log.opened", fields)

    def record(self, at: str, event: str, fields: Mapping[str, FieldValue]) -> bytes:
        """Return a line.

        Args:
            at: the time, from `time_text`.
            event: the name of the event.
            fields: its fields. Texts that are too long are cut.
        """
        last = self.position
        line = _encode({"seq": last.seq + 1, "prev": last.head, "at": at, "event": event, **fields})
        self.position = Position(last.seq + 1, hash_of(line))
        return line

    def checkpoint(self, at: str) -> bytes:
        """Return a line with a signature over all lines so far."""
        last = self.position
        signature = self.key.sign(checkpoint_message(last.seq, last.head, at))
        covers: dict[str, str | int] = {"seq": last.seq, "head": last.head, "at": at}
        self.signed = Checkpoint(self.log_id, last.seq, last.head, at, str(self.key.public), signature)
        return self.record(at, "log.checkpoint", {"covers": covers, "sig": signature})

    def continued(self, at: str, new_key: VerifyingKey) -> bytes:
        """Return the last line of a file: a checkpoint that names the next file and its key."""
        last = self.position
        next_file = file_name(last.seq + 2)
        signature = self.key.sign(continued_message(last.seq, last.head, at, next_file, str(new_key)))
        covers: dict[str, str | int] = {"seq": last.seq, "head": last.head, "at": at}
        fields: dict[str, FieldValue] = {
            "covers": covers,
            "next": next_file,
            "new_key": str(new_key),
            "sig": signature,
        }
        return self.record(at, "log.continued", fields)


def _encode(content: Mapping[str, FieldValue]) -> bytes:
    shortened = {name: _shortened(value) for name, value in content.items()}
    line = _to_json(shortened)
    if len(line) > MAX_LINE:  # many long texts: keep what identifies the event
        line = _to_json({name: value for name, value in shortened.items() if not _is_long(value)} | {"cut": True})
    return line


def _to_json(content: Mapping[str, FieldValue]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def encodable(value: FieldValue) -> FieldValue:
    """Return a value whose text every reader of JSON accepts.

    Half a surrogate pair, which is in the name of a file that is not UTF-8, becomes an escape sequence (``\\udce4``).
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [one.encode("utf-8", "backslashreplace").decode() for one in value]
    return value


def _shortened(value: FieldValue) -> FieldValue:
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        value = value[:_MAX_TEXT] + "…"
    elif isinstance(value, list):
        value = [one[:_MAX_TEXT] for one in value[:_MAX_ELEMENTS]]
    return encodable(value)


def _is_long(value: FieldValue) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and len(value) > 256)
