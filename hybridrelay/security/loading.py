"""Where connection strings come from: a file, the environment, standard input. Never the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO

from .._text_files import TextError, read_stream, read_text
from ..errors import ConfigurationError, ConnectionStringError
from .connection_string import MAX_CONNECTION_STRING, ConnectionString, parse_connection_string_untrusted

ENVIRONMENT_VARIABLE = "HYBRIDRELAY_CONNECTION_STRING"

_FILE_REMEDY = (
    "it has to hold the one line that 'hybridrelay connections create' or 'connections issue' wrote for a "
    "connector or an application"
)
#: In bytes: UTF-16 has two for each character.
_MAX_BYTES = 2 * MAX_CONNECTION_STRING + 4


def load_connection_string(
    source: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    stdin: BinaryIO | None = None,
    regular: bool = False,
) -> ConnectionString:
    """Read a connection string.

    Args:
        source: a file's path, ``-`` for standard input, or None for `ENVIRONMENT_VARIABLE`.
        environ: instead of `os.environ`.
        stdin: instead of standard input.
        regular: whether a file has to be a regular one, and no pipe.

    Raises:
        ConfigurationError: there is nothing to read.
        ConnectionStringError: what was read is not a connection string. Says where it came from.

    Logs a warning where others than the owner may read the file (not on Windows).
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
        return parse_connection_string_untrusted(text, remedy=_FILE_REMEDY)


def describe_source(source: str | os.PathLike[str] | None) -> str:
    """What people call a `source` of `load_connection_string`."""
    if source is None:
        return ENVIRONMENT_VARIABLE
    return "standard input" if source == "-" else str(source)


@contextmanager
def naming(source: str | os.PathLike[str]) -> Iterator[None]:
    """Add the origin of what was read to a `ConfigurationError`, because there may be several files."""
    try:
        yield
    except ConfigurationError as exc:
        # In place: it stays the same error, with its part and its remedy.
        exc.args = (f"{source}: {exc}",)
        raise


def _check_name(path: str | os.PathLike[str]) -> None:
    if "sharedaccesskey=" in str(path).lower():
        # Must not be repeated: argv is visible to others, and errors go to logs.
        raise ConfigurationError(
            "a connection string was given where the name of a file is expected",
            remedy=f"write it to a file of mode 0600, or set {ENVIRONMENT_VARIABLE}; regenerate its key",
        )
