"""Certificates that are renewed while a program runs: their files are read again when they have changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import attrs
import trio

from ..._file_thread import FileThread
from ..._text_files import read_bytes
from ...errors import ConfigurationError
from ...events.program import CertificateNotRenewed, CertificateRenewed, CertificateUnchanged
from ...events.stream import EventStream

__all__ = ["POLL_SECONDS", "Renewal", "SettledChange", "Stamp"]

T = TypeVar("T")

#: How often the files are checked for changes (seconds). Changed files are read once two checks in a row find the
#: same state.
POLL_SECONDS = 10.0

#: A chain and a key have a few KB.
_MAX_FILE = 1 << 20

#: What the files looked like. For each of them: modification time (ns), size, inode; None if there was no file.
Stamp = tuple[tuple[int, int, int] | None, ...]


class SettledChange:
    """Decides when files that are checked for changes should be read. Pure.

    They should be read when they differ from what was read last and have not changed between two checks, because
    tools replace a certificate and its key one after the other.
    """

    def __init__(self, read: Stamp) -> None:
        self._read = self._last = read

    def look(self, stamp: Stamp) -> bool:
        """Return whether to read the files now. True at most once for each stamp."""
        settled, self._last = stamp == self._last, stamp
        if not settled or stamp == self._read:
            return False
        self._read = stamp
        return True

    def was_read(self, stamp: Stamp) -> None:
        """Note that the files were read for another reason, when they had this stamp."""
        self._read = self._last = stamp


@attrs.frozen
class _Loaded(Generic[T]):
    value: T
    #: The contents of the files, to distinguish a renewal from a file that was only touched.
    contents: tuple[bytes, ...] = attrs.field(repr=False)


class Renewal(Generic[T]):
    """A value that was made from some files, such as a TLS context, and is made again when they change.

    Args:
        paths: the files; the first one is named in events. Symbolic links are followed.
        load: reads and checks them. Blocks. Raises ConfigurationError.
        pin: returns the pin of what was loaded, for events.
        events: the stream to which events are published.

    Raises:
        ConfigurationError: the files cannot be used.
    """

    def __init__(
        self, paths: Sequence[Path], load: Callable[[], T], *, pin: Callable[[T], str], events: EventStream
    ) -> None:
        self._paths = tuple(paths)
        self._load_value = load
        self._pin = pin
        self._events = events
        self._reloading = trio.Lock()
        self._thread = FileThread(str(self._paths[0]))
        #: Whether the last attempt to read the files failed.
        self._must_retry = False
        #: Why it failed; None if it has not.
        self.error: ConfigurationError | None = None
        self._change = SettledChange(self._stamp())
        self._loaded = self._load()
        #: The value that was in force before `current`; None if there was none.
        self.previous: T | None = None

    @property
    def current(self) -> T:
        """The value that is in force."""
        return self._loaded.value

    async def reload(self) -> bool:
        """Read the files again, and put the new value into force.

        Returns:
            Whether another value is in force now.

        Raises:
            ConfigurationError: they cannot be used; what was in force stays in force.

        If cancelled, what was in force stays in force. Several calls at the same time run one after the other.
        """
        async with self._reloading:
            self._must_retry = True
            try:
                stamp, loaded = await self._thread.run(self._stamp_and_load)
                self._change.was_read(stamp)
                if isinstance(loaded, ConfigurationError):
                    raise loaded
            except ConfigurationError as exc:
                self.error = exc
                raise
            self._must_retry, self.error = False, None
            if loaded.contents == self._loaded.contents:
                self._events.publish(CertificateUnchanged(file=str(self._paths[0])))
                return False
            self.previous, self._loaded = self.current, loaded
            self._events.publish(CertificateRenewed(file=str(self._paths[0]), pin=self._pin(loaded.value)))
            return True

    async def watch(self) -> None:
        """Load changed files, until cancelled.

        Files that could not be used are tried again at every check: the problem, such as their permissions, may be
        solved without a change of their times and sizes. The log repeats an error only when it changes.
        """
        published = ""
        while True:
            await trio.sleep(POLL_SECONDS)
            try:
                if self._change.look(await self._thread.run(self._stamp)) or self._must_retry:
                    await self.reload()
            except ConfigurationError as exc:
                if str(exc) != published:
                    self._events.publish(
                        CertificateNotRenewed(file=str(self._paths[0]), detail=str(exc), remedy=exc.remedy or "")
                    )
                published = str(exc)
            else:
                published = ""

    def _stamp(self) -> Stamp:
        return tuple(map(_stamp, self._paths))

    def _stamp_and_load(self) -> tuple[Stamp, _Loaded[T] | ConfigurationError]:
        # Take the stamp first, so that a change between the two statements is noticed at the next check.
        stamp = self._stamp()
        try:
            return stamp, self._load()
        except ConfigurationError as exc:
            return stamp, exc

    def _load(self) -> _Loaded[T]:
        before = self._contents()
        value = self._load_value()
        if self._contents() != before:
            raise ConfigurationError(
                f"{self._paths[0]} was changed while it was read", remedy="send SIGHUP once the files are complete"
            )
        return _Loaded(value, before)

    def _contents(self) -> tuple[bytes, ...]:
        return tuple(
            read_bytes(path, what="the certificate or key", limit=_MAX_FILE, regular=True) for path in self._paths
        )


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
