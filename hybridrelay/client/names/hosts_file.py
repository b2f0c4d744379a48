"""Changing a hosts file: the lines of this program, and nothing else."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..._file_lock import locked_files
from ..._replace_file import prepare_replacement, remove_leftovers
from ...errors import ConfigurationError, HybridRelayError
from .hosts_block import HostsLine, with_lines, without_lines

__all__ = ["apply_lines", "default_hosts_file", "read_hosts_file", "remove_lines"]

#: In bytes. Blocklists of advertisers' hosts, which some users put there, have a few megabytes.
_MAX_FILE = 64 * 1024 * 1024
#: How long to wait for another command that changes the file (seconds). A change takes milliseconds. After this time,
#: the file is changed without its lock, because everybody who may read the file can hold it.
_LOCK_SECONDS = 3.0
#: How many attempts to make if another program changes the file at the same moment.
_ATTEMPTS = 10


def default_hosts_file() -> Path:
    """Return the hosts file of this machine."""
    if sys.platform == "win32":
        return Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "drivers", "etc", "hosts")
    return Path("/etc/hosts")


def read_hosts_file(path: Path) -> bytes:
    """Read a hosts file.

    Raises:
        ConfigurationError: it cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE + 1)
    except OSError as exc:
        raise ConfigurationError(
            f"cannot read the hosts file {path}: {exc.strerror or exc}", remedy="name another file with --hosts-file"
        ) from exc
    if len(content) > _MAX_FILE:
        raise ConfigurationError(f"the hosts file {path} is larger than {_MAX_FILE} bytes")
    return content


def apply_lines(path: Path, lines: Sequence[HostsLine]) -> bool:
    """Write these lines into a hosts file, instead of those that this program has written before.

    The file keeps its owner, mode and attributes. It is replaced in one step, or overwritten in place if it is a
    mount point, as in containers. It is read immediately before that; if another program has changed it in the
    meantime, this begins again. A change between this reading and the replacement is lost.

    Returns:
        Whether the file has changed.

    Raises:
        ConfigurationError: it cannot be read.
        HybridRelayError: it cannot be written, or other programs keep changing it. It is unchanged.
    """
    return _change(path, lambda content: with_lines(content, lines))


def remove_lines(path: Path) -> bool:
    """Remove the lines that this program has written. See `apply_lines`."""
    return _change(path, without_lines)


def _change(path: Path, change: Callable[[bytes], bytes]) -> bool:
    try:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked_files([path], seconds=_LOCK_SECONDS))
            except TimeoutError:
                pass  # temporary files may belong to a command that is running
            else:
                remove_leftovers(path)
            for _ in range(_ATTEMPTS):
                before = read_hosts_file(path)
                after = change(before)
                if after == before:
                    return False
                with prepare_replacement(path, after) as replacement:
                    # Space for the new content may have been reserved with empty lines.
                    if read_hosts_file(path).rstrip(b"\n") == before.rstrip(b"\n"):
                        replacement.commit()
                        return True
    except OSError as exc:
        raise HybridRelayError(
            f"cannot change the hosts file {path}: {exc.strerror or exc}",
            remedy="run this command as root (sudo)" if isinstance(exc, PermissionError) else None,
        ) from exc
    raise HybridRelayError(
        f"cannot change the hosts file {path}: another program keeps changing it", remedy="try again later"
    )
