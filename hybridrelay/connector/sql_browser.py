"""The protocol of the SQL Server Browser service ([MC-SQLR], sections 2.2.3 and 2.2.5). Pure.

A client sends the name of an instance, and the service answers with a list of what it knows about the instance. The
reply comes over UDP, and any machine in the private network may have sent it. So only the number of a port is taken
from it, and the policy decides about this port.
"""

from __future__ import annotations

from typing import Final

from ..security.names import parse_port_untrusted

__all__ = ["BROWSER_PORT", "MAX_REPLY", "BadReply", "instance_request", "parse_instance_reply_untrusted"]

#: The UDP port of the service.
BROWSER_PORT: Final = 1434
_REQUEST, _REPLY = 0x04, 0x05
#: Before the data of a reply: its type, and the length of the data (2 bytes, little-endian).
_HEADER = 3
#: The longest reply about one instance (bytes).
MAX_REPLY: Final = _HEADER + 1024


class BadReply(Exception):
    """The reply does not say on which port the instance listens. The text says why."""


def instance_request(instance: str) -> bytes:
    """Return the request for one instance, whose name consists of ASCII."""
    return bytes([_REQUEST]) + instance.encode("ascii") + b"\0"


def parse_instance_reply_untrusted(data: bytes, instance: str) -> int:
    """Return the TCP port on which an instance listens.

    Args:
        data: a datagram.
        instance: the name in the request.

    Raises:
        BadReply: it is not a reply to this request, or the instance does not listen on TCP.
    """
    if len(data) < _HEADER or data[0] != _REPLY:
        raise BadReply("it is not a reply about an instance")
    if len(data) > MAX_REPLY or int.from_bytes(data[1:_HEADER], "little") != len(data) - _HEADER:
        raise BadReply("its length is wrong")
    # Names and values in turn. An empty name ends the list.
    parts = data[_HEADER:].decode("latin-1").split(";")
    fields: dict[str, str] = {}
    for name, value in zip(parts[::2], parts[1::2], strict=False):
        if not name:
            break
        fields.setdefault(name.lower(), value)
    if fields.get("instancename", "").lower() != instance.lower():
        raise BadReply("it is about another instance")
    if "tcp" not in fields:
        raise BadReply("the instance does not listen on TCP")
    try:
        return parse_port_untrusted(fields["tcp"])
    except ValueError:
        raise BadReply("it has no valid port") from None
