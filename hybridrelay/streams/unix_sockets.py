"""Unix sockets, in directories whose paths may be long. By default, only this user can connect to them."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import trio

from .path_threads import PathThreads

__all__ = [
    "SocketFile",
    "UnixSocketFile",
    "check_same_user",
    "connect_unix_socket",
    "has_unix_sockets",
    "is_listening",
    "listen_unix_socket",
    "short_path",
]

#: The longest path that fits into ``sockaddr_un`` on every system (bytes, without the final zero).
_MAX_PATH = 103
_BACKLOG = 128
#: The pauses between attempts to connect to a socket whose queue is full (seconds).
_FIRST_PAUSE, _MAX_PAUSE = 0.005, 0.25
_CREDENTIALS = struct.Struct("3i")


class SocketFile:
    """The file of a Unix socket that this process has bound.

    Args:
        path: the path of the file.

    Raises:
        OSError: there is no file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity: tuple[int, int, int] | None = _identify(path)

    def remove(self) -> None:
        """Remove the file, so that no program can connect. Idempotent.

        If another program has replaced the file in the meantime, its socket is not removed.
        """
        with contextlib.suppress(OSError):
            if self._identity is not None and _identify(self.path) == self._identity:
                self.path.unlink()
        self._identity = None


def _identify(path: Path) -> tuple[int, int, int]:
    """Return what distinguishes a file from a later one at the same path. Inode numbers alone may be reused at
    once."""
    found = path.lstat()
    return found.st_dev, found.st_ino, found.st_mtime_ns


async def listen_unix_socket(path: Path, *, mode: int = 0o600) -> tuple[trio.SocketListener, SocketFile]:
    """Listen on a Unix socket. An existing socket file is replaced.

    The caller makes sure that no other program listens there, and removes the file when it closes the listener.

    Args:
        path: the path of its file.
        mode: the mode of the file. By default, only this user can connect.

    Returns:
        The listener, and the socket's file.

    Raises:
        OSError: the socket cannot be made; `FileExistsError` if the path is a file that is not a socket.
    """
    sock = _new_socket()
    try:
        _remove_socket(path)
        # On Linux, the file gets the mode of the socket without the bits of the umask, so that it is private from the
        # beginning. On other systems, only the mode of its directory protects the file until it gets its own mode.
        os.fchmod(sock.fileno(), mode)
        with short_path(path) as name:
            # Trio's bind would need a thread, and perhaps no thread can be started. On a local file system, this call
            # does not block.
            with socket.socket(fileno=os.dup(sock.fileno())) as binding:
                binding.bind(name)
            await trio.lowlevel.checkpoint()
        _set_mode(path, mode)
        sock.listen(_BACKLOG)
        return trio.SocketListener(sock), SocketFile(path)
    except BaseException:
        sock.close()
        raise


async def connect_unix_socket(path: Path) -> trio.SocketStream:
    """Connect to a Unix socket.

    Raises:
        OSError: nothing listens there, or this user may not connect to it.
    """
    with short_path(path) as name:
        return await _connect(name)


async def _connect(name: str, *, waits: bool = True) -> trio.SocketStream:
    """Connect to the Unix socket at a path that is short enough. Raises OSError.

    While the socket's queue of connections is full, connecting is tried again; the caller sets the deadline. (Trio
    would take a full queue for a connection attempt in progress, and then for a connection.) With ``waits=False``, a
    full queue is a BlockingIOError.
    """
    sock = _new_socket()
    try:
        with socket.socket(fileno=os.dup(sock.fileno())) as connecting:
            connecting.setblocking(False)
            pause = _FIRST_PAUSE
            await trio.lowlevel.checkpoint()
            while True:
                try:
                    connecting.connect(name)
                    break
                except BlockingIOError:
                    if not waits:
                        raise
                    await trio.sleep(pause)
                    pause = min(2 * pause, _MAX_PAUSE)
        return trio.SocketStream(sock)
    except BaseException:
        sock.close()
        raise


class UnixSocketFile:
    """The file of a Unix socket of another program, as it was when the path was resolved.

    Use it as a context manager. On Linux, it keeps the file open: `connect` leads to exactly this file, even if
    somebody replaces a part of the path in the meantime. On other systems, `connect` uses the path without symbolic
    links.

    Attributes:
        path: the path of the file without symbolic links and ``..``.
    """

    def __init__(self, path: str, descriptor: int | None) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    async def open(cls, path: str) -> Self:
        """Find the file.

        Args:
            path: absolute; symbolic links are followed.

        Raises:
            PathSilent: the file system has not answered earlier calls for this path, or for many others.
            OSError: there is no such file, it is not a socket, or no thread can be started.

        If cancelled, this returns at once, even if the file system does not answer.
        """
        # The thread may find the file after the caller was cancelled. Then it closes the file.
        found: list[Self] = []
        is_wanted = True

        def find() -> None:
            file = cls(*_find_socket(path))
            found.append(file)
            if not is_wanted:
                file.close()

        try:
            await _path_threads().run(path, find)
        except BaseException:
            is_wanted = False
            for file in found:
                file.close()
            raise
        return found[0]

    async def connect(self) -> trio.SocketStream:
        """Connect to the socket.

        Raises:
            OSError: nothing listens there, or this user may not connect to it.

        The caller sets the deadline.
        """
        if self._descriptor is None:
            return await connect_unix_socket(Path(self.path))
        return await _connect(f"/proc/self/fd/{self._descriptor}")

    def close(self) -> None:
        """Close the file. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


#: The threads that find sockets, of a Trio run. A file system that does not answer uses up only some of these, and
#: none of the threads in which keys and policies are read.
_PATH_THREADS: trio.lowlevel.RunVar[PathThreads] = trio.lowlevel.RunVar("hybridrelay Unix socket paths")


def _path_threads() -> PathThreads:
    try:
        return _PATH_THREADS.get()
    except LookupError:
        threads = PathThreads()
        _PATH_THREADS.set(threads)
        return threads


def _find_socket(path: str) -> tuple[str, int | None]:
    """Return the path of a socket without symbolic links, and on Linux a descriptor of its file. Raises OSError."""
    if sys.platform != "linux" or not os.path.isdir("/proc/self/fd"):
        real = os.path.realpath(path, strict=True)
        _check_socket(os.stat(real), path)
        return real, None
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        _check_socket(status, path)
        real = os.readlink(f"/proc/self/fd/{descriptor}")
        if not status.st_nlink or not real.startswith("/"):  # it was removed in the meantime
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    except BaseException:
        os.close(descriptor)
        raise
    return real, descriptor


def _check_socket(status: os.stat_result, path: str) -> None:
    if not stat.S_ISSOCK(status.st_mode):
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK), path)


async def is_listening(path: Path) -> bool:
    """Return whether a program listens on the Unix socket at a path, by connecting to it.

    A socket whose program was killed still has its file, but nothing listens there.

    Raises:
        OSError: no Unix socket can have this path, because it is too long, for example; or this user may not enter
            its directory.
    """
    try:
        with short_path(path) as name:
            await (await _connect(name, waits=False)).aclose()
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except OSError as exc:
        # Python itself notices that a path is too long, and its error has no number.
        if exc.errno in (None, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP):
            raise
        if exc.errno == errno.EACCES:
            _identify(path)  # raises if this user may not enter the directory, and cannot know what is there
        return True  # its queue is full, or this user may not connect
    return True


def check_same_user(stream: trio.SocketStream) -> int | None:
    """Check that the process that has connected belongs to this user, or to root.

    The mode of the socket already ensures this. This is a second check.

    Returns:
        Its user id; None if the system does not report it.

    Raises:
        PermissionError: it belongs to another user.
    """
    if sys.platform != "linux":
        return None
    data = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(data)
    if user not in (0, os.geteuid()):
        raise PermissionError("another user has connected")
    return int(user)


def _remove_socket(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file that is not a socket", str(path))
        path.unlink()


def _set_mode(path: Path, mode: int) -> None:
    """Set the mode of a socket's file.

    The directory may belong to somebody who replaces the file by a link, or by another file of this user. The mode of
    nothing but a socket is changed.

    Raises:
        OSError: the file was replaced, or its mode cannot be changed.
    """
    if sys.platform != "linux":
        os.chmod(path, mode, follow_symlinks=False)
        return
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISSOCK(found.st_mode) or found.st_nlink != 1:
            raise FileExistsError(errno.EEXIST, "another program has replaced the socket", str(path))
        if stat.S_IMODE(found.st_mode) != mode:
            os.chmod(f"/proc/self/fd/{descriptor}", mode)
    finally:
        os.close(descriptor)


def has_unix_sockets() -> bool:
    """Return whether this system has Unix sockets, as far as Python can use them."""
    return hasattr(socket, "AF_UNIX")


def _new_socket() -> trio.socket.SocketType:
    if not has_unix_sockets():
        raise OSError(errno.EAFNOSUPPORT, "this system has no Unix sockets")
    return trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Yield a path of the same file that is short enough for the address of a Unix socket.

    On Linux, the directory of a longer path is opened, and the name leads through its descriptor.

    Raises:
        OSError: the directory cannot be opened, or there is no such path: the name of the file itself is too long, or
            the system is not Linux (ENAMETOOLONG).
    """
    if len(os.fsencode(path)) <= _MAX_PATH:
        yield str(path)
        return
    if sys.platform != "linux":
        raise _too_long(path)
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        name = f"/proc/self/fd/{directory}/{path.name}"
        if len(os.fsencode(name)) > _MAX_PATH:
            raise _too_long(path)
        yield name
    finally:
        os.close(directory)


def _too_long(path: Path) -> OSError:
    return OSError(errno.ENAMETOOLONG, "the path is too long for a Unix socket", str(path))
