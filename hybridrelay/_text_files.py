"""Reading text that people write: in files, in environment variables, on standard input.

Editors and shells change text in ways that one does not see or intend: a byte-order mark, UTF-16 (Windows), CR LF or
CR at the ends of lines, spaces, non-breaking spaces or quotes around a value. The functions here undo that. If data
cannot be read as text (undecodable bytes, NUL), the error names the source and the line, and never quotes the
content, because most of these files contain secrets.
"""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import ConfigurationError
from .events.plain_log import plainly_logged_events

#: Invisible characters that `str.strip` keeps: byte-order mark, zero-width space, joiners, direction marks.
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u200e\u200f\u2060"
#: Opening and closing quotes.
_QUOTES = (('"', '"'), ("'", "'"), ("\u201c", "\u201d"), ("\u2018", "\u2019"), ("\u201e", "\u201c"))
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SAVE_AS = "save it as plain text in UTF-8"


class TextError(ConfigurationError):
    """The data is too long, or is not text."""


def read_text(
    path: str | os.PathLike[str], *, what: str, limit: int, secret: bool = False, regular: bool = False
) -> str:
    """Read a text file that a person may have written.

    Args:
        path: the file, or a pipe.
        what: the kind of file, for messages: "the authority file".
        limit: the maximum size (bytes). At most one byte more is read.
        secret: whether to log a warning if the mode gives users other than the owner any access (not on Windows).
        regular: whether to refuse everything except a regular file, without waiting on a pipe. For files that are
            read again while a program runs, or replaced, which a pipe does not allow.

    Returns:
        The text without a byte-order mark, with ``\\n`` at the ends of its lines.

    Raises:
        ConfigurationError: it cannot be read.
        TextError: it is too long, or is not text. The message names file and line, and does not quote the content.
    """
    data = read_bytes(path, what=what, limit=limit, secret=secret, regular=regular)
    return decode_text(data, source=str(path), limit=limit)


def read_bytes(
    path: str | os.PathLike[str], *, what: str, limit: int, secret: bool = False, regular: bool = False
) -> bytes:
    """Read a file of up to `limit` bytes. If it is larger, return `limit` + 1 bytes, which `decode_text` refuses.

    Args:
        path, what, limit, secret, regular: see `read_text`.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        with open(path, "rb", opener=_open_at_once if regular else None) as file:
            if regular and not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigurationError(
                    f"{what} {path} is not a regular file",
                    remedy="it is read more than once or replaced: give a regular file, not a pipe or a device",
                )
            if secret:
                _warn_if_open(path, os.fstat(file.fileno()).st_mode)
            return file.read(limit + 1)
    except OSError as exc:
        raise ConfigurationError(
            f"cannot read {what} {path}: {exc.strerror or exc}", remedy=_remedy(path, exc)
        ) from exc
    except ValueError:
        raise ConfigurationError(f"the name of {what} contains a NUL character") from None


def read_stream(stream: BinaryIO, *, source: str, limit: int) -> str:
    """Like `read_text`, but from an open stream, such as standard input, until its end.

    Args:
        stream: the stream.
        source: its name in messages.
        limit: how much may be read (bytes).

    Raises:
        TextError: see `read_text`.
        OSError: the stream cannot be read.
    """
    return decode_text(stream.read(limit + 1), source=source, limit=limit)


def decode_text(data: bytes, *, source: str, limit: int) -> str:
    """Decode UTF-8, or UTF-16 with a byte-order mark; see `read_text`.

    Raises:
        TextError: it is too long, or is not text.
    """
    if len(data) > limit:
        raise TextError(f"{source} is larger than {limit} bytes", remedy="check that it is the right file")
    encoding = "utf-16" if data.startswith(_UTF16) else "utf-8-sig"
    try:
        text = _with_line_feeds(data.decode(encoding))
    except UnicodeDecodeError as exc:
        # The decoder of UTF-8 has removed the byte-order mark from what the position refers to.
        before = _with_line_feeds(exc.object[: exc.start].decode(encoding, "ignore"))
        raise TextError(f"{source}: line {_line_number(before)} is not text in UTF-8", remedy=_SAVE_AS) from None
    if (position := text.find("\0")) >= 0:
        line = _line_number(text[:position])
        # In UTF-16, every second byte of plain English is NUL.
        likely = ", as in UTF-16 without a byte-order mark" if data.count(0) * 3 > len(data) else ""
        raise TextError(f"{source}: line {line} contains a NUL character{likely}", remedy=_SAVE_AS)
    return text


def strip_blanks(text: str) -> str:
    """Return `text` without white space (including non-breaking spaces) and invisible characters at its ends."""
    while (stripped := text.strip().strip(_INVISIBLE)) != text:
        text = stripped
    return text


def strip_value(text: str) -> str:
    """Return `text` without white space at its ends, and without a pair of quotes around it."""
    text = strip_blanks(text)
    for opening, closing in _QUOTES:
        if len(text) >= 2 and text.startswith(opening) and text.endswith(closing):
            return strip_blanks(text[1:-1])
    return text


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a text from `read_text`, without white space at their ends. The first is number
    1."""
    for number, line in enumerate(text.split("\n"), 1):
        yield number, strip_blanks(line)


def _remedy(path: str | os.PathLike[str], error: OSError) -> str | None:
    match error:
        case FileNotFoundError():
            return (
                "check the path; a relative one starts at the current directory, and one in a configuration file at "
                "the directory of that file"
            )
        case IsADirectoryError():
            return "name a file, not a directory"
        case PermissionError():
            return f"let this user read it and enter its directories, or run the program as {_owner(path)}"
    return None


def _owner(path: str | os.PathLike[str]) -> str:
    try:
        return f"the user who owns it ({Path(path).owner()})"
    except (OSError, KeyError, NotImplementedError):  # its directory cannot be entered, or the user has no name
        return "the user who owns it"


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting until a pipe has a writer. This is an opener for `open`."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _with_line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _line_number(before: str) -> int:
    return before.count("\n") + 1


def _warn_if_open(path: str | os.PathLike[str], mode: int) -> None:
    if os.name == "posix" and stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
        from .events.program import FileReadableByOthers  # imported here, because it is rarely needed

        plainly_logged_events().publish(FileReadableByOthers(file=os.fspath(path)))
