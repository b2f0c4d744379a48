"""The relay's certificates, one of which an administrator renews while the relay runs.

A connection takes the certificate that is in force when its handshake begins; a replacement touches nothing that is
open.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path

import attrs
import trio

from ..._file_thread import FileThread
from ..._text_files import read_bytes
from ...errors import ConfigurationError
from ...events import (
    CertificateNotRenewed,
    CertificateRenewed,
    CertificateUnchanged,
    EventStream,
    logged_events,
)
from ...security import (
    certificate_expires_at,
    control_server_context,
    load_or_create_relay_certificate,
    outer_server_context,
    relay_pin,
)
from ..snapshot import CertificateSnapshot

__all__ = ["CertificateFiles", "RelayCertificates", "SettledChange"]

#: How often the certificate files are looked at (seconds). A change counts once two looks in a row saw the same.
POLL_SECONDS = 10.0

#: A chain and a key have a few KB.
_MAX_FILE = 1 << 20

#: What a file looked like: modification time (ns), size, inode; None where it was not there.
Stamp = tuple[tuple[int, int, int] | None, ...]


@attrs.frozen
class CertificateFiles:
    """Where the administrator keeps the certificate, and its key where that is a file of its own (both PEM)."""

    certificate: Path
    key: Path | None = None

    def stamp(self) -> Stamp:
        """What the files look like now. Symbolic links are followed, so a link that is changed counts as a change."""
        return tuple(_stamp(path) for path in self._paths())

    def load(self) -> _Public:
        """Read and check both files. Blocks.

        Raises:
            ConfigurationError: they cannot be used, or do not belong together; names the file.
        """
        before = self._contents()
        loaded = _Public(
            control_server_context(self.certificate, self.key),
            outer_server_context(self.certificate, self.key),
            relay_pin(self.certificate),
            certificate_expires_at(self.certificate),
            before,
        )
        if self._contents() != before:
            raise ConfigurationError(
                f"{self.certificate} was changed while it was read", remedy="send SIGHUP once the files are complete"
            )
        return loaded

    def _paths(self) -> tuple[Path, ...]:
        return (self.certificate,) if self.key is None else (self.certificate, self.key)

    def _contents(self) -> tuple[bytes, ...]:
        return tuple(
            read_bytes(path, what="the certificate or key", limit=_MAX_FILE, regular=True) for path in self._paths()
        )


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


@attrs.frozen
class _Public:
    """A certificate with its key, ready for use."""

    control: ssl.SSLContext = attrs.field(repr=False)
    outer: ssl.SSLContext = attrs.field(repr=False)
    pin: str
    #: Seconds since 1970.
    expires_at: float
    #: Of the files, to tell a renewal from a file that was only touched.
    contents: tuple[bytes, ...] = attrs.field(repr=False)


class SettledChange:
    """Decides when files that are looked at again and again are worth reading. Pure.

    They are once they differ from what was read, and have looked the same twice in a row: tools replace a certificate
    and its key one after the other.
    """

    def __init__(self, read: Stamp) -> None:
        self._read = self._last = read

    def look(self, stamp: Stamp) -> bool:
        """Whether to read the files now; True at most once for each stamp."""
        settled, self._last = stamp == self._last, stamp
        if not settled or stamp == self._read:
            return False
        self._read = stamp
        return True

    def was_read(self, stamp: Stamp) -> None:
        """The files were read, for another reason, when they looked like this."""
        self._read = self._last = stamp


class RelayCertificates:
    """The TLS contexts of one relay.

    Args:
        own: the relay's own certificate (PEM, with its key), which connection strings pin.
        public: the administrator's, for port 443 and for control channels of connection strings without a pin; None
            where there is none.
        made_outer: gives the self-signed certificate for port 443, where there is no public one; None where no port
            with outer TLS is open.
        events: where events go; None means the log.

    Raises:
        ConfigurationError: a certificate cannot be used.
    """

    def __init__(
        self,
        own: Path,
        public: CertificateFiles | None,
        made_outer: Callable[[], Path] | None,
        *,
        events: EventStream | None = None,
    ) -> None:
        self._events = logged_events() if events is None else events
        #: What connection strings carry.
        self.own_pin = relay_pin(own)
        self._control = control_server_context(own)
        self._files = public
        self._public: _Public | None = None
        self._outer: ssl.SSLContext | None = None
        #: Pins of the outer certificates: the present one first, then the one before it, which connections that
        #: began a moment ago have seen.
        self.outer_pins: tuple[str, ...] = ()
        self._reloading = trio.Lock()
        self._thread = FileThread("the certificate" if public is None else str(public.certificate))
        #: The last attempt to read the files failed.
        self._must_retry = False
        if public is not None:
            self._change = SettledChange(public.stamp())
            self._public = public.load()
            self.outer_pins = (self._public.pin,)
        elif made_outer is not None:
            path = made_outer()
            self._outer = outer_server_context(path)
            self.outer_pins = (relay_pin(path),)

    @classmethod
    def load(
        cls,
        state_dir: Path,
        public: CertificateFiles | None,
        *,
        now: float,
        outer_needed: bool,
        events: EventStream | None = None,
    ) -> RelayCertificates:
        """Load the certificates of a relay, and make those that it makes itself.

        Args:
            state_dir: must exist.
            public: see the class.
            now: seconds since 1970.
            outer_needed: whether a port with outer TLS is open.
            events: where events go; None means the log.

        Raises:
            StateError: the state directory cannot be used.
            ConfigurationError: a certificate cannot be used.
        """
        own = load_or_create_relay_certificate(state_dir, now=now)

        def made_outer() -> Path:
            return load_or_create_relay_certificate(state_dir, now=now, name="outer")

        return cls(own, public, made_outer if outer_needed else None, events=events)

    @property
    def outer_context(self) -> ssl.SSLContext | None:
        """For port 443; None where no such port is open and there is no public certificate."""
        return self._outer if self._public is None else self._public.outer

    def snapshot(self) -> tuple[CertificateSnapshot, ...]:
        """The certificates that expire. Those that the relay makes itself do not."""
        public = self._public
        return () if public is None else (CertificateSnapshot("public", public.pin, public.expires_at),)

    def control_context(self, *, by_authority: bool) -> ssl.SSLContext:
        """For one control channel.

        Args:
            by_authority: the peer verifies the relay by a certificate authority, and gets the public certificate if
                there is one. Otherwise it knows the relay's own certificate by a pin.
        """
        return self._control if self._public is None or not by_authority else self._public.control

    async def reload(self) -> bool:
        """Read the public certificate again and put it into force.

        Returns:
            Whether another one is in force now.

        Raises:
            ConfigurationError: it cannot be used, or its key does not belong to it; the earlier one stays in force.

        Cancelled, the earlier one stays in force. Several calls at once run one after the other.
        """
        if self._files is None:
            return False
        async with self._reloading:
            self._must_retry = True
            stamp, loaded = await self._thread.run(_stamp_and_load, self._files)
            self._change.was_read(stamp)
            if isinstance(loaded, ConfigurationError):
                raise loaded
            self._must_retry = False
            before = self._public
            assert before is not None
            if loaded.contents == before.contents:
                self._events.publish(CertificateUnchanged(file=str(self._files.certificate)))
                return False
            self._public = loaded
            self.outer_pins = tuple(dict.fromkeys((loaded.pin, before.pin)))
            self._events.publish(CertificateRenewed(file=str(self._files.certificate), pin=loaded.pin))
            return True

    async def watch(self) -> None:
        """Notice a renewed certificate, until cancelled.

        One that could not be used is tried again at every check: its problem, such as the permissions of the files,
        may be solved without a change of their times and sizes. The log repeats an error only when it changes.
        """
        if self._files is None:
            return
        published = ""
        while True:
            await trio.sleep(POLL_SECONDS)
            try:
                if self._change.look(await self._thread.run(self._files.stamp)) or self._must_retry:
                    await self.reload()
            except ConfigurationError as exc:
                if str(exc) != published:
                    event = CertificateNotRenewed(
                        file=str(self._files.certificate), detail=str(exc), remedy=exc.remedy or ""
                    )
                    self._events.publish(event)
                published = str(exc)
            else:
                published = ""


def _stamp_and_load(files: CertificateFiles) -> tuple[Stamp, _Public | ConfigurationError]:
    # The stamp first: a change between the two is noticed at the next look.
    stamp = files.stamp()
    try:
        return stamp, files.load()
    except ConfigurationError as exc:
        return stamp, exc
