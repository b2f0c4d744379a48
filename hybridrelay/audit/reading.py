"""Reading the files of an audit directory: to check them, and to find records in them. Blocks."""

from __future__ import annotations

import contextlib
import gzip
import re
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import attrs
import msgspec

from ..errors import ConfigurationError
from .chain import MAX_LINE, Checkpoint, file_name, file_number
from .ended import EARLIER_KEYS, MAX_EARLIER_KEYS_BYTES
from .keys import VerifyingKey
from .lines import content_of
from .verification import BadLine, Verdict, Verifier

__all__ = [
    "RecordFilter",
    "log_id",
    "newest_key",
    "newest_name",
    "parse_keys",
    "parse_witness",
    "read_records",
    "verify_directory",
]

#: Finds the id of the log, the number and the hash of a line, and the signature, in what another sink has kept of a
#: checkpoint. The format does not matter.
_WITNESS = re.compile(
    r"\blog\W{1,4}([0-9a-f]{16})\b.{0,20}?"
    r"\blast\W{1,4}([0-9]{1,18})\b.{0,80}?"
    r"\bhead\W{1,4}([0-9a-f]{64})\b"
    r"(?:.{0,20}?\bsigned_?[aA]t\W{1,4}([0-9TZ:.-]{1,32})\W.{0,20}?"
    r"\bkey\W{1,4}(ed25519:[0-9A-Za-z+/]{43}=)\W.{0,20}?"
    r"\bsignature\W{1,4}([0-9A-Za-z+/]{86}==))?"
)


#: What reading a compressed file that is damaged raises.
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)
#: How many times to begin, because a file may be deleted before it was read.
_ATTEMPTS = 5


class _FileGone(Exception):
    """The program has deleted a file since the names were read."""


@attrs.frozen
class RecordFilter:
    """Which records are wanted; empty values match everything."""

    #: From this time on, as in the field ``at``.
    since: str = ""
    #: Before this time.
    until: str = ""
    label: str = ""
    #: The host, or host and port, of the target.
    target: str = ""
    connection: str = ""
    #: The event's name, or its first word.
    event: str = ""

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Return whether a record is wanted."""
        at, event, target = str(record.get("at")), str(record.get("event")), str(record.get("target", ""))
        return (
            at >= self.since
            and (not self.until or at < self.until)
            and self.label in ("", record.get("label"))
            and self.connection in ("", record.get("connection"))
            and self.event in ("", event, event.partition(".")[0])
            and self.target in ("", target, target.rpartition(":")[0].strip("[]"))
        )


def verify_directory(
    directory: Path, trusted: Collection[VerifyingKey] = (), witnessed: Collection[Checkpoint] = ()
) -> Verdict:
    """Check all files of a directory.

    Args:
        directory: the directory, or a copy of it. A program may be writing to it.
        trusted, witnessed: see `Verifier`.

    Raises:
        BadLine: a line is wrong.
        ConfigurationError: the directory cannot be read, or has no audit files.
    """
    for _ in range(_ATTEMPTS):
        try:
            return _verified(directory, Verifier(trusted, witnessed))
        except _FileGone:
            pass
    raise ConfigurationError(
        f"the program deletes files of {directory} faster than they can be read",
        remedy="check a copy of the directory",
    )


def _verified(directory: Path, verifier: Verifier) -> Verdict:
    names = _files(directory)
    for line in _earlier_keys(directory):
        verifier.earlier_key(line)
    while names:  # the program may begin another file in the meantime
        for name in names:
            verifier.begin_file(name)
            line_number = 0
            try:
                for line in _lines(directory, name):
                    line_number += 1
                    verifier.feed(line)
            except _DAMAGED:
                raise BadLine(name, line_number + 1, "the compressed file is damaged") from None
        names = [one for one in _files(directory) if one > names[-1]]
    return verifier.finish()


def _earlier_keys(directory: Path) -> list[bytes]:
    """Return the last lines of files that were deleted."""
    try:
        with (directory / EARLIER_KEYS).open("rb") as file:
            return file.read(2 * MAX_EARLIER_KEYS_BYTES).splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise ConfigurationError(f"cannot read {directory / EARLIER_KEYS}: {exc.strerror or exc}") from exc


def read_records(directory: Path, wanted: RecordFilter) -> Iterator[dict[str, Any]]:
    """Yield the records that match, the oldest first, without checking signatures.

    Skipped are lines that are not JSON, what follows a line that is too long or damage in a compressed file, and
    files that the program has deleted in the meantime. `verify_directory` finds out whether anything is missing.

    Raises:
        ConfigurationError: the directory cannot be read, or has no audit files.
    """
    for name in _files(directory):
        try:
            for line in _lines(directory, name):
                try:
                    record = msgspec.json.decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    continue
                if isinstance(record, dict) and wanted.matches(record):
                    yield record
        except (*_DAMAGED, _FileGone):
            continue


def newest_key(directory: Path) -> VerifyingKey:
    """Return the public key that the newest file names.

    Raises:
        ConfigurationError: the directory cannot be read, has no audit files, or the newest one names no key or is
            damaged.
    """
    return _newest(directory)[0]


def newest_name(directory: Path) -> str:
    """Return the name of the newest file. Errors are as for `newest_key`."""
    return _files(directory)[-1]


def log_id(directory: Path) -> str:
    """Return the id of the log. Errors are as for `newest_key`."""
    return _newest(directory)[1]


def _newest(directory: Path) -> tuple[VerifyingKey, str]:
    problem = "names no key"
    try:
        for line in _newest_lines(directory):
            content = content_of(line)
            with contextlib.suppress(ValueError):
                return VerifyingKey.parse(str(content.get("key"))), str(content.get("log"))
            break
    except _DAMAGED:
        problem = "is compressed, and damaged"
    raise ConfigurationError(
        f"the newest file in {directory} {problem}",
        remedy=f"check the directory with: hybridrelay audit verify {directory}",
    )


def _newest_lines(directory: Path) -> Iterator[bytes]:
    with contextlib.suppress(_FileGone):
        yield from _lines(directory, _files(directory)[-1])


def parse_keys(text: str) -> list[VerifyingKey]:
    """Return the public keys in a text: one in each line, with comments after ``#``.

    Raises:
        ValueError: a line is not a key, or there are no keys.
    """
    lines = [line.partition("#")[0].strip() for line in text.split("\n")]
    keys = [VerifyingKey.parse(line) for line in lines if line]
    if not keys:
        raise ValueError("it contains no key")
    return keys


def parse_witness(text: str) -> list[Checkpoint]:
    """Return the checkpoints in a text in which a witness has kept them.

    The text is, for example, an export of the journal, the log of a syslog server, or lines of JSON.

    Raises:
        ValueError: there is none.
    """
    found = [
        Checkpoint(log_id, int(number), head, *signed)
        for line in text.split("\n")
        for log_id, number, head, *signed in _WITNESS.findall(line)
    ]
    if not found:
        raise ValueError(
            "it contains no checkpoint: no line has the fields log, last and head of an event audit.checkpoint"
        )
    return found


def _files(directory: Path) -> list[str]:
    """Return the names of the files, without the ending ``.gz``, in their order."""
    try:
        numbers = {number for path in directory.iterdir() if (number := file_number(path.name)) is not None}
    except OSError as exc:
        raise ConfigurationError(
            f"cannot read the audit directory {directory}: {exc.strerror or exc}",
            remedy="name the directory of --audit-dir, and run the command as the user who owns it",
        ) from exc
    if not numbers:
        raise ConfigurationError(
            f"there are no audit files in {directory}", remedy="name the directory of --audit-dir"
        )
    return [file_name(number) for number in sorted(numbers)]


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return cast(BinaryIO, gzip.open(path.with_name(f"{path.name}.gz")))


def _lines(directory: Path, name: str) -> Iterator[bytes]:
    """Yield the lines of a file. Of a line that is too long, yield the beginning, and then nothing more."""
    path = directory / name
    try:
        with _open(path) as file:
            while line := file.readline(MAX_LINE + 1):
                yield line
                if len(line) > MAX_LINE:
                    return
    except _DAMAGED:
        raise
    except FileNotFoundError:
        raise _FileGone from None
    except OSError as exc:
        raise ConfigurationError(f"cannot read {exc.filename or path}: {exc.strerror or exc}") from exc
