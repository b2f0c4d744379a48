"""The first bytes on every connection, and the relay's answer. SPEC.md, section 1.

Both have a fixed length, so that a reader can take exactly that many bytes from the transport and leave what follows
in the socket. The relay may then let the kernel move it.
"""

from __future__ import annotations

import enum
import struct

import attrs

from .._value import Value
from .errors import RemoteProtocolError
from .reasons import Reason

_PREAMBLE = struct.Struct(">4sBBH32s")
_STATUS = struct.Struct(">4sBBH")
_PREAMBLE_MAGIC = b"HYRL"
_STATUS_MAGIC = b"HYRS"

#: The version of the preamble and its status. The version of the session protocol is negotiated separately, in HELLO.
PREAMBLE_VERSION = 1
PREAMBLE_SIZE = _PREAMBLE.size
STATUS_SIZE = _STATUS.size
TICKET_SIZE = 32
#: A ticket begins with the id of the relay that made it.
RELAY_ID_SIZE = 4
#: An id that no relay has. A probe of a data port presents a ticket of zeros, which has this id.
NO_RELAY = bytes(RELAY_ID_SIZE)
#: An admission proof has the place, and so the length, of a data channel's ticket.
PROOF_SIZE = TICKET_SIZE
_VERIFY_BY_CA = 0x0001
#: A probe sends this many bytes after the status and gets them back. This is more than two Ethernet packets, so that
#: a path that loses full-sized packets fails the probe, and so little that it costs the relay nothing.
PROBE_SIZE = 4096


class Purpose(enum.IntEnum):
    """What a connection is for."""

    PROBE = 0
    CONTROL = 1
    DATA = 2


@attrs.frozen
class Preamble(Value):
    """The first bytes of every connection, sent by the dialing side."""

    purpose: Purpose
    #: The ticket of a data channel; for a control channel, an admission proof or zeros; otherwise zeros.
    credential: bytes = attrs.field(default=bytes(TICKET_SIZE), repr=False)
    #: Whether the dialing side verifies the relay's certificate by a CA, so that it needs one that a CA has issued.
    by_ca: bool = False

    @credential.validator
    def _check_credential(self, attribute: object, value: bytes) -> None:
        if len(value) != TICKET_SIZE:
            raise ValueError(f"a ticket or proof has {TICKET_SIZE} bytes")

    def encode(self) -> bytes:
        flags = _VERIFY_BY_CA if self.by_ca else 0
        return _PREAMBLE.pack(_PREAMBLE_MAGIC, PREAMBLE_VERSION, self.purpose, flags, self.credential)


def decode_preamble_untrusted(data: bytes) -> Preamble:
    """Parse exactly `PREAMBLE_SIZE` bytes. Unknown flags are ignored.

    Raises:
        RemoteProtocolError: it is not a preamble, or its version or purpose is unknown.
    """
    if len(data) != PREAMBLE_SIZE:
        raise RemoteProtocolError("the preamble is truncated")
    magic, version, purpose, flags, credential = _PREAMBLE.unpack(data)
    if magic != _PREAMBLE_MAGIC:
        raise RemoteProtocolError("not a hybridrelay preamble")
    if version != PREAMBLE_VERSION:
        raise RemoteProtocolError(f"preamble version {version}", reason=Reason.VERSION_MISMATCH)
    try:
        return Preamble(Purpose(purpose), credential, bool(flags & _VERIFY_BY_CA))
    except ValueError:
        raise RemoteProtocolError(f"unknown purpose {purpose}") from None


def relay_of_ticket(ticket: bytes) -> bytes:
    """Return the id of the relay that made the ticket, or `NO_RELAY`. It is not secret."""
    return ticket[:RELAY_ID_SIZE]


def encode_status(reason: Reason) -> bytes:
    """Encode the relay's answer to a preamble; `Reason.NO_ERROR` means that the channel is ready."""
    return _STATUS.pack(_STATUS_MAGIC, PREAMBLE_VERSION, 0, reason)


def decode_status_untrusted(data: bytes) -> Reason:
    """Parse exactly `STATUS_SIZE` bytes.

    Raises:
        RemoteProtocolError: it is not a status, so the answer is not from a relay.
    """
    if len(data) != STATUS_SIZE:
        raise RemoteProtocolError("the connection ended before the relay's status")
    magic, version, _, code = _STATUS.unpack(data)
    if magic != _STATUS_MAGIC:
        raise RemoteProtocolError("the answer is not from a hybridrelay relay")
    if version != PREAMBLE_VERSION:
        raise RemoteProtocolError(f"status version {version}", reason=Reason.VERSION_MISMATCH)
    return Reason.from_wire(code)
