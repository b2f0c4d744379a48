"""The configuration of a relay, and what is known about it once it serves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs

from ..abc import Binding

__all__ = ["Binding", "RelayConfig", "RelayInfo"]

_at_least_one = attrs.validators.optional(attrs.validators.ge(1))


@attrs.frozen(kw_only=True)
class RelayConfig:
    """What a relay needs to know."""

    #: Holds the store of hybrid connections and the relay's own certificate. Created if it does not exist.
    state_dir: Path = attrs.field(converter=Path)
    #: By port name: where to listen. A name that is absent or has no binding is off.
    bindings: Mapping[str, tuple[Binding, ...]]
    #: By port name: what connection strings say instead, where something in front of the relay uses other ports.
    #: None: the port is not served.
    public_ports: Mapping[str, int | None] = attrs.field(factory=dict)
    #: PEM: the outer certificate for port 443, from a public CA, because proxies that intercept TLS require one. It
    #: also serves control channels whose connection string has no pin. None: a self-signed one is made.
    tls_certificate: Path | None = None
    #: PEM: its key, where that is not in the same file.
    tls_key: Path | None = None
    #: The most pairs of data channels that may be joined, or be about to be. None: about one for four descriptors, at
    #: most 32,768. More than that is not possible.
    max_pairs: int | None = attrs.field(default=None, validator=_at_least_one)
    #: The most of them that one hybrid connection, and one key of a sender, may have. None: no fixed limit; when most
    #: are taken, they are shared out (`core/places.py`).
    max_pairs_per_connection: int | None = attrs.field(default=None, validator=_at_least_one)
    max_pairs_per_key: int | None = attrs.field(default=None, validator=_at_least_one)


@attrs.frozen
class RelayInfo:
    """A relay that serves."""

    #: By port name: where it listens, port 0 replaced.
    bound: Mapping[str, tuple[Binding, ...]]
    #: ``sha256:...``: what connection strings carry, so that nobody else can pose as this relay.
    pin: str
