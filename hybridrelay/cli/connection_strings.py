"""Connection strings for the commands: the option, and reading what it names."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from . import values
from .reloading import log_not_reloaded

if TYPE_CHECKING:
    from ..security import ConnectionString, Role, StringUpdate

logger = logging.getLogger("hybridrelay.cli")

#: Below the ten seconds and more that service managers give a program before they kill it.
DEFAULT_GRACE = 5.0

#: `DATA_CONFIG.resume_deadline`, here so that --help imports nothing; a test compares the two.
DEFAULT_RESUME_DEADLINE = 25.0

#: `client.patience.OPEN_PATIENCE`, likewise.
DEFAULT_OPEN_PATIENCE = 10.0

#: `CLIMB_FIRST_SECONDS`, likewise.
DEFAULT_CLIMB_SECONDS = 30.0

#: For every --help.
WHERE_FROM = """\
Connection strings come from files, from standard input (-), or, if no file is named, from the environment variable
HYBRIDRELAY_CONNECTION_STRING; never from the command line, which every user of the machine can see. The files are
written by 'hybridrelay connections create' and 'connections issue'."""


def add_mode(parser: argparse.ArgumentParser) -> None:
    """Add ``--mode``."""
    parser.add_argument(
        "--mode",
        metavar="auto|tcp|websocket",
        default="auto",
        help="the transport: the best that works (auto, the default), or only this one",
    )


def add_files(parser: argparse.ArgumentParser, *, means: str) -> None:
    """Add ``--connection-string-file``: several after one option, or the option again; a list in `files`."""
    parser.add_argument(
        "--connection-string-file",
        metavar="F",
        dest="files",
        type=values.path_or_stdin,
        nargs="+",
        action="extend",
        default=[],
        help=f"{means}, one or more; - for standard input",
    )


def add_grace(parser: argparse.ArgumentParser) -> None:
    """Add ``--grace``."""
    parser.add_argument(
        "--grace",
        metavar="SECONDS",
        type=values.seconds(0),
        default=DEFAULT_GRACE,
        help="at SIGTERM, how long open connections may continue; a second signal ends the program at once "
        "(default: %(default)g)",
    )


def add_resume_deadline(parser: argparse.ArgumentParser) -> None:
    """Add ``--resume-deadline``."""
    parser.add_argument(
        "--resume-deadline",
        metavar="SECONDS",
        type=values.seconds(0),
        default=DEFAULT_RESUME_DEADLINE,
        help="how long open connections wait for a lost path to the other side before they are reset "
        "(default: %(default)g)",
    )


def add_open_patience(parser: argparse.ArgumentParser) -> None:
    """Add ``--open-patience``."""
    parser.add_argument(
        "--open-patience",
        metavar="SECONDS",
        type=values.seconds(0),
        default=DEFAULT_OPEN_PATIENCE,
        help="how long a new connection waits while the relay or the connector is away, before it is reset; "
        "0: not at all (default: %(default)g)",
    )


def add_climb_seconds(parser: argparse.ArgumentParser) -> None:
    """Add ``--climb-seconds``."""
    parser.add_argument(
        "--climb-seconds",
        metavar="SECONDS",
        type=values.seconds(0.1),
        default=DEFAULT_CLIMB_SECONDS,
        help="while a fallback is in use, how soon to look for a better route; the intervals grow "
        "(default: %(default)g)",
    )


def load_all(files: Sequence[str], role: Role | None = None) -> list[ConnectionString]:
    """Read all connection strings; without files, the one in the environment.

    Args:
        files: paths, or - for standard input.
        role: whose they have to be, with an identity that fits; None where that does not matter.

    Raises:
        ConfigurationError: one cannot be read, is none, or is the other side's; says which file, and which part.
    """
    from ..errors import ConfigurationError

    if len([file for file in files if file == "-"]) > 1:
        raise ConfigurationError("standard input (-) holds one connection string", remedy="use files for the others")
    return [_load(file, role) for file in files or (None,)]


async def reload_each(files: Sequence[str], role: Role, use: Callable[[int, ConnectionString], StringUpdate]) -> None:
    """Read the files again and use each one that is valid; the log reports the result for each.

    Args:
        files: as for `load_all`. Standard input and the environment cannot be read again.
        role: whose strings they have to be.
        use: takes up a string, with its place among the files. A `ConfigurationError` says why it cannot.

    When cancelled, the strings that were applied stay applied.
    """
    from .._file_thread import FileThread
    from ..errors import ConfigurationError
    from ..security.loading import describe_source, naming

    for number, file in enumerate(files or (None,)):
        if file is None or file == "-":
            logger.info("%s cannot be read again: a change needs a restart", describe_source(file))
            continue
        try:
            string = await FileThread(file).run(partial(_load, file, role, regular=True))
            with naming(file):
                update = use(number, string)
        except ConfigurationError as exc:
            log_not_reloaded(exc)
        else:
            level = logging.WARNING if update.needs_restart else logging.INFO
            logger.log(level, "%s: %s", file, update)


def _load(file: str | None, role: Role | None, *, regular: bool = False) -> ConnectionString:
    from ..connectivity.data import EndToEnd
    from ..security import Role, load_connection_string
    from ..security.loading import describe_source, naming

    string = load_connection_string(file, regular=regular)
    # Client and connector look at this as well, and no longer know the file.
    with naming(describe_source(file)):
        if role is Role.CONNECTOR:
            string.require_target()
        elif role is Role.APPLICATION:
            string.require_application()
        if role is not None:
            EndToEnd.from_connection_string(string)
    return string
