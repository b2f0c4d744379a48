"""The relay's state directory, which belongs to one user, and which no other user can read."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..._file_lock import lock_file
from ...errors import StateError

__all__ = [
    "LOCK_FILE",
    "MANAGEMENT_SOCKET",
    "REGISTRY_FILE",
    "can_share_memory",
    "ensure_private_file",
    "is_registry_missing",
    "local_socket",
    "occupy_state_directory",
    "prepare_state_directory",
]

#: The registry, inside the state directory.
REGISTRY_FILE = "registry.db"
#: The certificate of the relay, which it makes after the registry.
_CERTIFICATE_FILE = "relay.pem"
#: Locked by the relay that uses the directory. It contains the id of the relay's process.
LOCK_FILE = "relay.lock"
#: The name of the socket of the management API, without its suffix.
MANAGEMENT_SOCKET = "management"

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def local_socket(path: Path, port: str) -> Path:
    """Return the Unix socket on which the relay that uses this state directory serves a local port."""
    return path / f"{port}.sock"


def prepare_state_directory(path: Path, *, create: bool = True) -> None:
    """Make sure that `path` is a directory that this process may use and that no other user may read. Idempotent.

    Args:
        path: the directory.
        create: whether to create it if it is missing.

    Raises:
        StateError: the directory is missing, is not a directory, has another owner, is not writable, or is used for
            something else, so that closing it to other users could do harm. The error has a remedy.
    """
    try:
        if create:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except FileExistsError:
        raise StateError(f"{path} is not a directory", remedy="name a directory for the relay's state") from None
    except FileNotFoundError:
        raise StateError(
            f"the state directory {path} does not exist",
            remedy="name the directory that the relay uses, or create it first by starting the relay",
        ) from None
    except OSError as exc:
        raise StateError(
            f"the state directory {path} cannot be used: {exc.strerror or exc}",
            remedy="name a directory that this user may write to, or run as a user who may",
        ) from exc
    if not stat.S_ISDIR(status.st_mode):
        raise StateError(f"{path} is not a directory", remedy="name a directory for the relay's state")
    if sys.platform != "win32":
        _check_owner(path, status.st_uid)
        _close_to_others(path, status.st_mode)
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise StateError(
            f"the state directory {path} is not writable", remedy=f"chmod 700 {path}, or remount it for writing"
        )


@contextmanager
def occupy_state_directory(path: Path) -> Iterator[None]:
    """Lock a state directory against other relays while the block runs. It is created if it is missing.

    Two relays on one directory would have the same certificate and overwrite each other's ports, and a key that was
    revoked at one of them would be valid at the other for a moment. Commands that change the registry need no lock,
    because SQLite has its own.

    Raises:
        StateError: another relay uses it; or see `prepare_state_directory`.
    """
    prepare_state_directory(path)
    try:
        held = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as exc:
        raise StateError(
            f"{path / LOCK_FILE} cannot be opened: {exc.strerror or exc}",
            remedy="run as the user who owns the directory",
        ) from exc
    try:
        _lock(path, held)
        yield
    finally:
        os.close(held)


def _lock(path: Path, held: int) -> None:
    try:
        locked = lock_file(held)
    except OSError as exc:
        raise StateError(
            f"{path / LOCK_FILE} cannot be locked: {exc.strerror or exc}", remedy="name a directory on a local disk"
        ) from exc
    if not locked:
        holder = os.read(held, 32).decode("ascii", "replace").strip()
        raise StateError(
            f"another relay runs on the state directory {path}{f' (process {holder})' if holder.isdecimal() else ''}",
            remedy="stop that one first, or name another directory",
        )
    with contextlib.suppress(OSError):  # on a full disk; the number is only for an error message
        os.ftruncate(held, 0)
        os.write(held, f"{os.getpid()}\n".encode())


def can_share_memory(path: Path) -> bool:
    """Return whether processes can share memory through a file in this directory, which SQLite's write-ahead log
    needs.

    If this is unknown, because nothing can be written at the moment, the result is True.
    """
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            file.truncate(mmap.PAGESIZE)
            try:
                mmap.mmap(file.fileno(), mmap.PAGESIZE).close()
            except OSError as exc:
                return exc.errno == errno.ENOMEM
    except OSError:
        return True
    return True


def is_registry_missing(path: Path) -> bool:
    """Return whether a state directory has no registry although a relay has used it before.

    Raises:
        StateError: the registry is an empty file, which no relay leaves once it has its certificate: for example, a
            copy has failed on a full disk.
    """
    registry = path / REGISTRY_FILE
    if not (path / _CERTIFICATE_FILE).exists():
        return False
    try:
        size = registry.lstat().st_size
    except OSError:
        return not os.path.lexists(registry)
    if size == 0:
        raise StateError(
            f"the registry {registry} is an empty file, although the state directory has the certificate of a relay",
            remedy="restore a backup; or delete the file, to begin with an empty registry",
        )
    return False


def ensure_private_file(path: Path, *, create: bool) -> None:
    """Make sure that a file of the state directory exists and has mode 0600. `create`: whether to create it.

    Raises:
        FileNotFoundError: it does not exist, and `create` is False.
        OSError: anything else. It may be a directory, or a symbolic link, whose target may be any file of this user.
    """
    try:
        if path.is_symlink():
            raise OSError(errno.ELOOP, "it is a symbolic link, which the relay does not follow", str(path))
        # An existing file must not be opened: if this process has it open as a database, closing it here would
        # release SQLite's locks (POSIX locks belong to the process), and other processes would reset the write-ahead
        # log.
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        path.chmod(0o600)
    except FileNotFoundError:
        if not create:
            raise
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _check_owner(path: Path, owner: int) -> None:
    # Root is refused as well: it could read everything, but the relay could no longer use what root has written.
    assert sys.platform != "win32"
    if owner != os.geteuid():
        name = _user_name(owner)
        # An empty directory that this user can write may be a volume of a container whose user id is arbitrary.
        is_volume = os.access(path, os.R_OK | os.W_OK | os.X_OK) and os.geteuid() != 0 and not any(path.iterdir())
        raise StateError(
            f"the state directory {path} belongs to the user {name}, and this is the user {_user_name(os.geteuid())}",
            remedy=f"name a directory in it that does not exist yet, such as {path / 'relay'}"
            if is_volume
            else f"run the command as its owner: sudo -u {name} hybridrelay ...",
        )


def _user_name(uid: int) -> str:
    assert sys.platform != "win32"
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def _close_to_others(path: Path, mode: int) -> None:
    if not mode & _OTHERS:
        return
    if not (path / REGISTRY_FILE).exists() and any(path.iterdir()):
        # For example a home directory or /tmp: closing it to others would break other programs.
        raise StateError(
            f"the directory {path} is open to others and holds files that are not the relay's",
            remedy=f"name a new or empty directory, or chmod 700 {path} if it is only for the relay",
        )
    path.chmod(0o700)
