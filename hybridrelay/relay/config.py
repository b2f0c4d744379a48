"""The configuration of a relay, and information about a relay that is running."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import attrs

from .._value import Value
from ..abc import Binding
from ..security import NO_NETWORKS, Networks
from .client_addresses import ClientAddresses

__all__ = ["MAX_WORKERS", "Binding", "ClientAddresses", "RelayConfig", "RelayInfo", "default_workers"]

#: More workers than this would be idle on most machines.
MAX_WORKERS = 8

_at_least_one = attrs.validators.optional(attrs.validators.ge(1))


@attrs.frozen(kw_only=True)
class RelayConfig(Value):
    """The configuration of a relay.

    Raises:
        ValueError: a number is out of range: a maximum number of pairs has to be at least 1, `workers` is from 0 to
            `MAX_WORKERS`, `keep_pairs` from 0 to 3600, and `max_history_bytes` must not be negative.
    """

    #: The directory of the registry and of the relay's own certificate. Created if it does not exist.
    state_dir: Path = attrs.field(converter=Path)
    #: The addresses to listen on, by port name. A port that is absent or has no binding is off.
    bindings: Mapping[str, tuple[Binding, ...]]
    #: The port numbers for connection strings, by port name, where something in front of the relay, such as a reverse
    #: proxy, listens on a different number. None means that the port is off.
    public_ports: Mapping[str, int | None] = attrs.field(factory=dict)
    #: A PEM file with the outer certificate for port 443, from a public CA, because intercepting proxies reject
    #: others. It is also used for control channels whose connection string has no pin. None: a self-signed
    #: certificate is created.
    tls_certificate: Path | None = None
    #: A PEM file with the key, if it is not in the same file.
    tls_key: Path | None = None
    #: The maximum number of pairs of data channels that are joined or about to be joined. There are never more than
    #: 32,768, or than about one for every four descriptors, which is what None means.
    max_pairs: int | None = attrs.field(default=None, validator=_at_least_one)
    #: The maximum for one hybrid connection, followed by that for one key of senders. None means no fixed limit:
    #: when most places are taken, they are shared (`core/places.py`).
    max_pairs_per_connection: int | None = attrs.field(default=None, validator=_at_least_one)
    max_pairs_per_key: int | None = attrs.field(default=None, validator=_at_least_one)
    #: How many worker processes move the bytes of pairs of native data channels, at most `MAX_WORKERS`. 0: this
    #: process moves them. Systems other than Linux have no workers.
    workers: int = attrs.field(default=0, validator=[attrs.validators.ge(0), attrs.validators.le(MAX_WORKERS)])
    #: How long workers keep their pairs after this process has stopped gracefully, or was killed, for the next main
    #: process on the same state directory (seconds). 0: they end with this process. If the relay is cancelled, they
    #: also end.
    keep_pairs: float = attrs.field(default=0.0, validator=[attrs.validators.ge(0), attrs.validators.le(3600)])
    #: Proxies in front of the relay, from which every connection has to begin with a PROXY header (TCP ports only).
    proxy_protocol_from: Networks = NO_NETWORKS
    #: Reverse proxies in front of the WebSocket ports, whose X-Forwarded-For or Forwarded says where a connection
    #: comes from.
    trusted_proxies: Networks = NO_NETWORKS
    #: What connectors are told about the addresses of clients.
    client_addresses: ClientAddresses = ClientAddresses.EXACT
    #: The maximum size of the history file (bytes). 0: there is none, and only the last hour is kept, in memory.
    max_history_bytes: int = attrs.field(default=1 << 30, validator=attrs.validators.ge(0))


def default_workers() -> int:
    """Return how many workers this process can use: one for each of its processor cores beyond the first, at most
    `MAX_WORKERS`; 0 on systems other than Linux."""
    if sys.platform != "linux":
        return 0
    return min(MAX_WORKERS, max(0, len(os.sched_getaffinity(0)) - 1))


@attrs.frozen
class RelayInfo(Value):
    """Information about a relay that is running."""

    #: The addresses on which the relay listens, by port name, with the actual port in place of port 0.
    bound: Mapping[str, tuple[Binding, ...]]
    #: The relay's pin, ``sha256:...``, for connection strings.
    pin: str
    #: For connection strings: the ports that differ from the defaults; None for one that is off.
    public_ports: Mapping[str, int | None] = attrs.field(factory=dict)
