"""The relay's certificates. An administrator may renew, add, replace or remove one of them while the relay runs.

A connection uses the certificate that is in force when its handshake begins. A change does not affect open
connections.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import attrs
import trio

from ..._file_thread import thread_of_file
from ..._value import Value
from ...events.log import logged_events
from ...events.program import CertificateRenewed
from ...events.stream import EventStream
from ...security import (
    certificate_expires_at,
    control_server_context,
    load_or_create_relay_certificate,
    outer_server_context,
    relay_pin,
)
from ..snapshot import CertificateSnapshot
from .renewal import Renewal

__all__ = ["CertificateFiles", "RelayCertificates"]


@attrs.frozen
class CertificateFiles(Value):
    """The PEM file of the administrator's certificate, and that of its key, if it is separate."""

    certificate: Path
    key: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """One file or two."""
        return (self.certificate,) if self.key is None else (self.certificate, self.key)

    def load(self) -> _Public:
        """Read and check the files. Blocks.

        Raises:
            ConfigurationError: they cannot be used, or do not belong together; the message names the file.
        """
        return _Public(
            control_server_context(self.certificate, self.key),
            outer_server_context(self.certificate, self.key),
            relay_pin(self.certificate),
            certificate_expires_at(self.certificate),
        )


@attrs.frozen
class _Public(Value):
    """A certificate with its key, ready for use."""

    control: ssl.SSLContext = attrs.field(repr=False)
    outer: ssl.SSLContext = attrs.field(repr=False)
    pin: str
    #: Seconds since 1970.
    expires_at: float


@attrs.frozen
class _Made(Value):
    """The self-signed certificate for port 443, ready for use."""

    outer: ssl.SSLContext = attrs.field(repr=False)
    pin: str

    @classmethod
    def load(cls, make: Callable[[], Path]) -> _Made:
        """Make the certificate at first use, and read it. Blocks."""
        path = make()
        return cls(outer_server_context(path), relay_pin(path))


@attrs.frozen
class _Outer(Value):
    """Where the outer certificates come from: files of the administrator, or the relay itself."""

    files: CertificateFiles | None = None
    renewal: Renewal[_Public] | None = None
    made: _Made | None = None

    @property
    def pins(self) -> tuple[str, ...]:
        """The pins of the current certificate and of the previous one."""
        if self.renewal is None:
            return () if self.made is None else (self.made.pin,)
        return tuple(one.pin for one in (self.renewal.current, self.renewal.previous) if one is not None)


class RelayCertificates:
    """The TLS contexts of one relay.

    Args:
        own: a PEM file with the relay's own certificate and key, whose pin is in connection strings.
        public: the administrator's certificate, for port 443 and for control channels of connection strings without a
            pin; None if there is none.
        make_outer: returns the file of the self-signed certificate for port 443, which is used without a public one,
            and creates it if there is none.
        outer_needed: whether a port with outer TLS is open.
        events: the stream to which events are published; None means the log.

    Raises:
        ConfigurationError: a certificate cannot be used.
    """

    def __init__(
        self,
        own: Path,
        public: CertificateFiles | None,
        make_outer: Callable[[], Path],
        *,
        outer_needed: bool,
        events: EventStream | None = None,
    ) -> None:
        #: The pin for connection strings.
        self.own_pin = relay_pin(own)
        self._control = control_server_context(own)
        self._make_outer = make_outer
        self._events = logged_events() if events is None else events
        self._outer = self._load_outer(public, outer_needed=outer_needed)
        #: The pins of the certificates before the last call of `use`.
        self._earlier_pins: tuple[str, ...] = ()
        #: Cancelled when the files to be watched are others.
        self._watching = trio.CancelScope()

    def _load_outer(self, public: CertificateFiles | None, *, outer_needed: bool) -> _Outer:
        """Read the outer certificate, if one is needed. The relay's own is created if it is missing. Blocks.

        Raises:
            ConfigurationError: a certificate cannot be used.
        """
        if public is not None:
            renewal = Renewal(public.paths, public.load, pin=lambda loaded: loaded.pin, events=self._events)
            return _Outer(public, renewal)
        return _Outer(made=_Made.load(self._make_outer)) if outer_needed else _Outer()

    async def prepare(self, public: CertificateFiles | None, *, outer_needed: bool) -> Callable[[], None]:
        """Read other certificates than those that are in use.

        Args:
            public, outer_needed: see the class. If they are what they were, nothing is read.

        Returns:
            A function that puts them into force for connections that begin afterwards.

        Raises:
            ConfigurationError: a certificate cannot be used. Nothing was changed.
        """
        now = self._outer
        # Connections on a port that is no longer open may be waiting for their handshake.
        outer_needed = outer_needed or self.outer_context is not None
        if public == now.files and (public is not None or not outer_needed or now.made is not None):
            await trio.lowlevel.checkpoint()
            return lambda: None
        thread = thread_of_file("outer certificate" if public is None else public.certificate)
        outer = await thread.run(lambda: self._load_outer(public, outer_needed=outer_needed))

        def use() -> None:
            self._earlier_pins = self._outer.pins
            self._outer = outer
            self._watching.cancel()
            if outer.renewal is not None:
                assert public is not None
                pin = outer.renewal.current.pin
                self._events.publish(CertificateRenewed(file=str(public.certificate), pin=pin))

        return use

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
        """Load the certificates of a relay, and create the self-signed ones at its first start.

        Args:
            state_dir: the state directory, which must exist.
            public: see the class.
            now: seconds since 1970.
            outer_needed: whether a port with outer TLS is open.
            events: the stream to which events are published; None means the log.

        Raises:
            StateError: the state directory cannot be used.
            ConfigurationError: a certificate cannot be used.
        """
        own = load_or_create_relay_certificate(state_dir, now=now)

        def made_outer() -> Path:
            return load_or_create_relay_certificate(state_dir, now=now, name="outer")

        return cls(own, public, made_outer, outer_needed=outer_needed, events=events)

    @property
    def _public(self) -> _Public | None:
        return None if self._outer.renewal is None else self._outer.renewal.current

    @property
    def outer_context(self) -> ssl.SSLContext | None:
        """The context for port 443; None if no such port is open and there is no public certificate."""
        if self._public is not None:
            return self._public.outer
        return None if self._outer.made is None else self._outer.made.outer

    @property
    def outer_pins(self) -> tuple[str, ...]:
        """Pins of the outer certificates: the current one first, then the previous one, which was presented to
        connections that began a moment ago."""
        return tuple(dict.fromkeys((*self._outer.pins, *self._earlier_pins)))

    def snapshot(self) -> tuple[CertificateSnapshot, ...]:
        """Return the certificates that expire. The relay's self-signed ones do not."""
        renewal = self._outer.renewal
        if renewal is None:
            return ()
        public, error = renewal.current, renewal.error
        failure, remedy = ("", "") if error is None else (str(error), error.remedy or "")
        return (CertificateSnapshot("public", public.pin, public.expires_at, failure, remedy),)

    def control_context(self, *, by_ca: bool) -> ssl.SSLContext:
        """Return the context for a control channel.

        Args:
            by_ca: whether the peer verifies the relay's certificate by a CA. If so, it gets the public
                certificate, if there is one. Otherwise it gets the relay's own certificate, which it verifies by a
                pin.
        """
        return self._control if self._public is None or not by_ca else self._public.control

    async def reload(self) -> bool:
        """Read the public certificate again and put it into force. See `Renewal.reload`."""
        renewal = self._outer.renewal
        return renewal is not None and await renewal.reload()

    async def watch(self) -> None:
        """Load renewed certificates, until cancelled."""
        while True:
            with trio.CancelScope() as self._watching:
                if self._outer.renewal is None:
                    await trio.sleep_forever()
                else:
                    await self._outer.renewal.watch()
