"""The PROXY header that tells a target where a stream comes from."""

from __future__ import annotations

import ipaddress

from ..security import parse_host_port_untrusted
from ..streams.proxy_protocol import format_proxy_header
from .stream_events import Origin

__all__ = ["CONNECTION", "LABEL", "UNIQUE_ID", "proxy_header"]

#: The types of the additional fields. `UNIQUE_ID` is one of the protocol's own, the others are in the range that it
#: leaves to applications.
UNIQUE_ID = 0x05
LABEL = 0xE0
CONNECTION = 0xE1


def proxy_header(origin: Origin, activity_id: str, target: object) -> bytes:
    """Return the header for a stream: the client's address, as the relay has stated it, and the proved label.

    The relay does not state the port of the client, which is 0 in the header. If the relay states no address, or only
    a network, the header has no addresses.

    Args:
        origin: where the stream comes from.
        activity_id: the stream's id in all events.
        target: the address of the connection's other end, as `getpeername` returns it.
    """
    source = _parse(origin.client_address)
    destination = (str(target[0]), int(target[1])) if isinstance(target, tuple) else None
    fields = {
        UNIQUE_ID: activity_id.encode()[:128],
        LABEL: origin.peer.label.encode(),
        CONNECTION: origin.published.name.encode(),
    }
    return format_proxy_header(source, destination, fields)


def _parse(text: str) -> tuple[str, int] | None:
    """Parse an IP address with or without a port. The relay has stated it, so it may be anything."""
    try:
        return str(ipaddress.ip_address(text)), 0
    except ValueError:
        pass
    try:
        parsed = parse_host_port_untrusted(text)
        return str(ipaddress.ip_address(parsed.host)), parsed.port
    except ValueError:
        return None
