"""The relay's certificates, one of which an administrator may renew while the relay is running.

A connection uses the certificate that is in force when its handshake begins. A renewal does not affect open
connections.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import attrs

from ...events.log import logged_events
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
class CertificateFiles:
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
class _Public:
    """A certificate with its key, ready for use."""

    control: ssl.SSLContext = attrs.field(repr=False)
    outer: ssl.SSLContext = attrs.field(repr=False)
    pin: str
    #: Seconds since 1970.
    expires_at: float


class RelayCertificates:
    """The TLS contexts of one relay.

    Args:
        own: a PEM file with the relay's own certificate and key, whose pin is in connection strings.
        public: the administrator's certificate, for port 443 and for control channels of connection strings without a
            pin; None if there is none.
        made_outer: returns the file of the self-signed certificate for port 443, which is used without a public one;
            None if no port with outer TLS is open.
        events: the stream to which events are published; None means the log.

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
        #: The pin for connection strings.
        self.own_pin = relay_pin(own)
        self._control = control_server_context(own)
        self._renewal: Renewal[_Public] | None = None
        self._outer: ssl.SSLContext | None = None
        self._made_pins: tuple[str, ...] = ()
        if public is not None:
            self._renewal = Renewal(
                public.paths,
                public.load,
                pin=lambda loaded: loaded.pin,
                events=logged_events() if events is None else events,
            )
        elif made_outer is not None:
            path = made_outer()
            self._outer = outer_server_context(path)
            self._made_pins = (relay_pin(path),)

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

        return cls(own, public, made_outer if outer_needed else None, events=events)

    @property
    def _public(self) -> _Public | None:
        return None if self._renewal is None else self._renewal.current

    @property
    def outer_context(self) -> ssl.SSLContext | None:
        """The context for port 443; None if no such port is open and there is no public certificate."""
        return self._outer if self._public is None else self._public.outer

    @property
    def outer_pins(self) -> tuple[str, ...]:
        """Pins of the outer certificates: the current one first, then the previous one, which was presented to
        connections that began a moment ago."""
        if self._renewal is None:
            return self._made_pins
        pins = (one.pin for one in (self._renewal.current, self._renewal.previous) if one is not None)
        return tuple(dict.fromkeys(pins))

    def snapshot(self) -> tuple[CertificateSnapshot, ...]:
        """Return the certificates that expire. The relay's self-signed ones do not."""
        if self._renewal is None:
            return ()
        public, error = self._renewal.current, self._renewal.error
        failure, remedy = ("", "") if error is None else (str(error), error.remedy or "")
        return (CertificateSnapshot("public", public.pin, public.expires_at, failure, remedy),)

    def control_context(self, *, by_authority: bool) -> ssl.SSLContext:
        """Return the context for a control channel.

        Args:
            by_authority: whether the peer verifies the relay with certificate authorities. If so, it gets the public
                certificate, if there is one. Otherwise it gets the relay's own certificate, which it verifies by a
                pin.
        """
        return self._control if self._public is None or not by_authority else self._public.control

    async def reload(self) -> bool:
        """Read the public certificate again and put it into force. See `Renewal.reload`."""
        return self._renewal is not None and await self._renewal.reload()

    async def watch(self) -> None:
        """Load renewed certificates, until cancelled. Returns at once if there is no public certificate."""
        if self._renewal is not None:
            await self._renewal.watch()
