"""Reading connection strings from a file, the environment or standard input, but never from the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import attrs

from .._text_files import TextError, read_stream, read_text
from ..errors import ConfigurationError, ConnectionStringError
from .connection_string import MAX_CONNECTION_STRING, ConnectionString, parse_connection_string_untrusted

ENVIRONMENT_VARIABLE = "HYBRIDRELAY_CONNECTION_STRING"

_FILE_REMEDY = (
    "it has to hold the one line that 'hybridrelay connections create' or 'connections issue' wrote for a "
    "connector or an application"
)
#: The maximum size of a file (bytes). In UTF-16, each character takes two bytes.
_MAX_BYTES = 2 * MAX_CONNECTION_STRING + 4


def load_connection_string(
    source: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    stdin: BinaryIO | None = None,
    regular: bool = False,
) -> ConnectionString:
    """Read a connection string.

    Logs a warning if users other than the file's owner can read it (not on Windows). The result knows its file
    (`ConnectionString.file`): unless told otherwise, a program that runs with it stores a new key, an update or a
    renewed identity there.

    Args:
        source: the path of a file, ``-`` for standard input, or None for the variable `ENVIRONMENT_VARIABLE`.
        environ: used instead of `os.environ`.
        stdin: used instead of standard input.
        regular: whether the file has to be a regular file, and not a pipe.

    Raises:
        ConfigurationError: nothing was given to read, the file cannot be read or is not a regular file, or `source`
            is a connection string instead of a path.
        ConnectionStringError: the content is not a connection string; the message names the source.
    """
    if source is None:
        text = (os.environ if environ is None else environ).get(ENVIRONMENT_VARIABLE)
        if not text:
            raise ConfigurationError(
                "no connection string was given",
                remedy=f"name a file, or set {ENVIRONMENT_VARIABLE}, or use - for standard input",
            )
        with naming(describe_source(source)):
            return parse_connection_string_untrusted(text)
    if source != "-":
        _check_name(source)
    try:
        if source == "-":
            stream = sys.stdin.buffer if stdin is None else stdin
            text = read_stream(stream, source=describe_source(source), limit=_MAX_BYTES)
        else:
            text = read_text(
                source, what="the connection string file", limit=_MAX_BYTES, secret=True, regular=regular
            )
    except TextError as exc:
        raise ConnectionStringError(str(exc), remedy=exc.remedy) from None
    with naming(describe_source(source)):
        string = parse_connection_string_untrusted(text, remedy=_FILE_REMEDY)
    return string if source == "-" else attrs.evolve(string, file=_regular_file(Path(source)))


def _regular_file(path: Path) -> Path | None:
    """Return the absolute path of a regular file; None for anything else, such as a pipe. It is absolute because the
    program may change its working directory."""
    return path.absolute() if path.is_file() else None


def describe_source(source: str | os.PathLike[str] | None) -> str:
    """Return the name of a `source` of `load_connection_string`, for messages."""
    if source is None:
        return ENVIRONMENT_VARIABLE
    return "standard input" if source == "-" else str(source)


@contextmanager
def naming(source: str | os.PathLike[str]) -> Iterator[None]:
    """Put the name of a file before the message of a `ConfigurationError`, because there may be several files."""
    try:
        yield
    except ConfigurationError as exc:
        # Change the exception in place, so that it keeps its class, part and remedy.
        exc.args = (f"{source}: {exc}",)
        raise


def _check_name(path: str | os.PathLike[str]) -> None:
    if "sharedaccesskey=" in str(path).lower():
        # The text is not quoted, because the error may be written to a log.
        raise ConfigurationError(
            "a connection string was given where the name of a file is expected",
            remedy=f"write it to a file of mode 0600, or set {ENVIRONMENT_VARIABLE}; regenerate its key",
        )
