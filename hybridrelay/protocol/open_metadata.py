"""The types of metadata that this specification assigns, and their values. SPEC.md, section 3."""

from __future__ import annotations

import struct
from typing import Final

from .metadata import NO_METADATA, Metadata, MetadataEntry

__all__ = ["PORT", "port_metadata", "requested_port_untrusted"]

#: Which port of the target a stream is for.
PORT: Final = 0x0001

_PORT = struct.Struct(">H")


def port_metadata(port: int | None) -> Metadata:
    """Return the metadata of a stream for one port of a target that has several.

    Args:
        port: from 1 to 65535; None: none is stated, which means the first port of the target.

    Raises:
        ValueError: `port` is not a port number.

    The entry is critical: an acceptor that does not know it must not connect to another port instead.
    """
    if port is None:
        return NO_METADATA
    if not 1 <= port <= 65535:
        raise ValueError("a port is a number from 1 to 65535")
    return Metadata([MetadataEntry(PORT, _PORT.pack(port), critical=True)])


def requested_port_untrusted(metadata: Metadata) -> int | None:
    """Return the port that an opener has stated, from 1 to 65535; None if it has stated none.

    Raises:
        ValueError: the value is not a port number.
    """
    value = metadata.get(PORT)
    if value is None:
        return None
    if len(value) != _PORT.size:
        raise ValueError("the value of the entry for a port does not have two bytes")
    (port,) = _PORT.unpack(value)
    if not port:
        raise ValueError("0 is not a port number")
    return int(port)
