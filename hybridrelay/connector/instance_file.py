"""The instance file: a record of a connector's instances, so that it can declare earlier ones dead after a restart.

When a connector is killed, its clients wait for it until their resume deadline. As soon as the restarted connector
declares the earlier instance dead, the relay notifies the clients, and they reset their connections immediately.

Each line of the file is one instance: its secret, and if it is dead, since when that is known (seconds since 1970).
Lines without a time are the instances of the process that has the file locked, or had it last. A process begins with
one instance for all of its relays. If another process uses it at a relay, this one takes another instance for this
relay only, so it has at most one more for each. These lines come first, and none of them is ever dropped for another:
otherwise, a relay that lies could push out what is in use at others.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Protocol

import attrs
import trio

from .._file_lock import lock_file
from .._file_thread import FileSilent, thread_of_file
from .._state_directory import state_directory
from ..connectivity.instance import OwnInstance, new_instance
from ..errors import ConfigurationError
from ..events.connector_resources import InstanceFileNotUsed, InstanceFileNotWritten
from ..events.log import logged_events
from ..events.stream import EventStream
from ..protocol.control import MAX_REPLACES

__all__ = [
    "InstanceFile",
    "Instances",
    "UnrecordedInstances",
    "default_instance_file",
    "state_directory",
]

#: How many connectors that serve the same hybrid connections, for one user on one machine, get a default instance
#: file.
MAX_BESIDE: Final = 16
#: How long an instance is declared dead (seconds). No session waits that long for its connector.
_FORGET_SECONDS: Final = 600.0
#: The size limit of the file, which has at most `MAX_REPLACES` lines, as many as a message to a relay may name.
_MAX_BYTES: Final = 4096
#: How many instances of this process are recorded besides the first one.
_MAX_RENEWED: Final = MAX_REPLACES - 1
#: Matches an instance file, even one that was being written when the machine lost power.
_OURS: Final = re.compile(rb"[0-9a-f \r\n\0]*")
#: A time, in whole seconds. Longer numbers, and those with an exponent, were not written by this module.
_TIME: Final = re.compile(r"[0-9]{1,15}")
_NAME_ANOTHER: Final = "name another file with --instance-file, or 'none' for no file"
#: The errors of a full disk, or of a file system that is mounted read-only. The configuration is not at fault, so the
#: connector runs without the file.
_CANNOT_WRITE: Final = frozenset({errno.ENOSPC, errno.EROFS, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)})


class Instances(Protocol):
    """The instances of one connector."""

    @property
    def instance(self) -> OwnInstance:
        """The first instance of this process."""

    @property
    def dead(self) -> tuple[OwnInstance, ...]:
        """Earlier instances that are known to be dead, the most recent first."""

    async def renew(self, earlier: OwnInstance, instance: OwnInstance) -> None:
        """Record that this process uses another instance at one relay from now on, in place of `earlier`. The first
        instance of this process stays recorded, because other relays know it."""

    async def forget(self, instance: OwnInstance) -> None:
        """Note that an instance is no longer used, because this process has left the relay at which it was. The
        first instance of this process stays recorded."""


@attrs.define
class UnrecordedInstances:
    """The instances of a connector without an instance file: nothing is known about earlier processes."""

    instance: OwnInstance = attrs.field(factory=new_instance)
    dead: tuple[OwnInstance, ...] = ()

    async def renew(self, earlier: OwnInstance, instance: OwnInstance) -> None:
        """See `Instances.renew`."""
        await trio.lowlevel.checkpoint()

    async def forget(self, instance: OwnInstance) -> None:
        """See `Instances.forget`."""
        await trio.lowlevel.checkpoint()


class InstanceFile:
    """A file with the secrets of a connector's instances. The connector keeps it locked while it runs.

    The lock ends with the process, for whatever reason, so a connector that acquires it knows that the instances in
    the file are dead. If another connector holds the lock, both run in parallel, and neither declares the other dead.
    If the file cannot be written (for instance on a full disk), its content is still used, and an event is published.

    Args:
        path: the file, which belongs to one connector. It is created with mode 0600 if it is missing.
        clock: returns seconds since 1970.
        events: the stream to which events are published; None means one that writes them to the log.

    Raises:
        ConfigurationError: the file cannot be opened, or is not an instance file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Callable[[], float] = time.time,
        events: EventStream | None = None,
    ) -> None:
        self.path = Path(path)
        self._events = logged_events() if events is None else events
        #: The first instance of this process.
        self.instance = new_instance()
        #: Earlier instances that are known to be dead, the most recent first.
        self.dead: tuple[OwnInstance, ...] = ()
        #: Whether this process has the lock. Otherwise another connector has it, and the file is not changed.
        self.is_held = False
        self._clock = clock
        #: The further instances of this process that are in use, each at one relay; the most recent first.
        self._renewed: list[OwnInstance] = []
        #: `dead`, and since when each is known to be dead (seconds since 1970).
        self._dead_since: list[tuple[OwnInstance, float]] = []
        self._file: int | None = None
        try:
            self._file = self._open()
            self._take_over()
        except OSError as exc:
            self.close()
            if exc.errno not in _CANNOT_WRITE:
                raise ConfigurationError(
                    f"cannot use the instance file {self.path}: {exc.strerror or exc}",
                    remedy="name a file in a directory that this user may write to, or leave --instance-file out",
                ) from exc
            self._report(exc)
        except BaseException:
            self.close()
            raise

    async def renew(self, earlier: OwnInstance, instance: OwnInstance) -> None:
        """See `Instances.renew`. If the file cannot be written, an event is published. If it has no room, because
        instances of this process for as many other relays are in it, the new instance is not recorded.

        If cancelled, the file may or may not be written.
        """
        self._renewed = [one for one in self._renewed if one != earlier]
        if len(self._renewed) < _MAX_RENEWED:
            self._renewed.insert(0, instance)
        await self._write_in_thread()

    async def forget(self, instance: OwnInstance) -> None:
        """See `Instances.forget`. Errors and cancellation are as for `renew`."""
        if instance in self._renewed:
            self._renewed.remove(instance)
            await self._write_in_thread()

    def close(self) -> None:
        """Close the file and release the lock. A connector that locks it next considers its instances dead.
        Idempotent."""
        if self._file is not None:
            os.close(self._file)
        self._file, self.is_held = None, False

    def _open(self) -> int:
        """Open the file, which is created with mode 0600 if it is missing.

        Raises:
            ConfigurationError: it is not a regular file.
        """
        # O_NONBLOCK: if the path is a named pipe, open() must not wait for a writer.
        flags = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            opened = os.open(self.path, flags | os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            if exc.errno != errno.EROFS:
                raise
            opened = os.open(self.path, flags | os.O_RDONLY)
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            os.close(opened)
            raise ConfigurationError(f"{self.path} is not a regular file", remedy=_NAME_ANOTHER)
        return opened

    def _take_over(self) -> None:
        assert self._file is not None
        if not lock_file(self._file):
            return
        content = os.read(self._file, _MAX_BYTES)
        if not _OURS.fullmatch(content):
            raise ConfigurationError(f"{self.path} is not an instance file; it was not changed", remedy=_NAME_ANOTHER)
        self.is_held = True
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                os.fchmod(self._file, 0o600)
        now = self._clock()
        # Those without a time were in use until the process before this one has ended, however long that has run.
        found = [(instance, now if since is None else since) for instance, since in _parse(content)]
        self._dead_since = [one for one in found if one[1] > now - _FORGET_SECONDS][:MAX_REPLACES]
        self.dead = tuple(instance for instance, _ in self._dead_since)
        self._write()

    def _write(self) -> None:
        assert self._file is not None
        try:
            _overwrite(self._file, self._content())
        except OSError as exc:
            self._report(exc)

    async def _write_in_thread(self) -> None:
        """Write the file while the connector runs. Its file system may answer late, or never."""
        if self._file is None or not self.is_held:
            return
        content = self._content()
        # The thread has a descriptor of its own, because it may go on after `close`.
        descriptors: list[int] = []

        def write() -> None:
            with contextlib.suppress(IndexError):  # it was given up before it has begun
                descriptor = descriptors.pop()
                try:
                    _overwrite(descriptor, content)
                finally:
                    os.close(descriptor)

        try:
            descriptors.append(os.dup(self._file))
            await thread_of_file(self.path).run(write)
        except (OSError, FileSilent) as exc:
            self._report(exc)
        finally:
            with contextlib.suppress(IndexError):
                os.close(descriptors.pop())

    def _content(self) -> bytes:
        lines = [one.secret for one in (*self._renewed, self.instance)]
        lines += [f"{one.secret} {since:.0f}" for one, since in self._dead_since]
        return "".join(f"{line}\n" for line in lines[:MAX_REPLACES]).encode()

    def _report(self, error: OSError | FileSilent) -> None:
        detail = str(error) if isinstance(error, FileSilent) else error.strerror or str(error)
        self._events.publish(InstanceFileNotWritten(file=str(self.path), detail=detail))


def _overwrite(descriptor: int, content: bytes) -> None:
    """Overwrite a file in place: if the disk is full, truncating it first would lose the old content without writing
    the new one."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    while content:
        content = content[os.write(descriptor, content) :]
    os.ftruncate(descriptor, os.lseek(descriptor, 0, os.SEEK_CUR))
    os.fsync(descriptor)


def _parse(content: bytes) -> list[tuple[OwnInstance, float | None]]:
    """Return the instances in a file, each with its time. Lines of another form are ignored."""
    entries: list[tuple[OwnInstance, float | None]] = []
    for line in content.decode("ascii", "replace").splitlines():
        secret, _, since = line.partition(" ")
        if since and not _TIME.fullmatch(since):
            continue
        with contextlib.suppress(ValueError):
            entries.append((OwnInstance(secret), float(since) if since else None))
    return entries


def default_instance_file(
    directory: Path, published: Iterable[tuple[str, str]], *, events: EventStream | None = None
) -> InstanceFile | None:
    """Return the instance file that a connector uses if none is named. Does not raise.

    There is a file for each set of hybrid connections, and another one for each further connector that serves the
    same set at the same time. Returns None if `MAX_BESIDE` of them are in use, or if the file cannot be used.

    Args:
        directory: the directory for the file; it is created if it is missing.
        published: the relay's host and the hybrid connection's name, for each registration that the connector makes.
        events: the stream to which events are published; None means one that writes them to the log.
    """
    events = logged_events() if events is None else events
    names = "\n".join(sorted(f"{host}/{name}" for host, name in published))
    digest = hashlib.sha256(names.encode()).hexdigest()[:16]
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(1, MAX_BESIDE + 1):
            file = InstanceFile(directory / f"connector-{digest}{'' if number == 1 else f'-{number}'}", events=events)
            if file.is_held:
                return file
            file.close()
    except (OSError, ConfigurationError) as exc:
        events.publish(InstanceFileNotUsed(detail=str(exc)))
    return None
