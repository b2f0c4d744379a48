"""Reads preambles, with which every connection begins: for a probe, a data channel or a control channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import attrs
import trio

from ..._value import Value
from ...abc import Purpose
from ...protocol.errors import RemoteProtocolError
from ...protocol.preamble import PREAMBLE_SIZE, decode_preamble_untrusted, encode_status
from ...protocol.reasons import Reason
from ...streams import receive_exactly
from ..core.rendezvous import Arrival
from .ports import OpenPort

__all__ = ["ControlRequest", "DataRequest", "ProbeRequest", "Request", "RequestReader"]


@attrs.frozen
class ProbeRequest(Value):
    """The peer wants its next bytes to be sent back."""


@attrs.frozen
class DataRequest(Value):
    """The peer has presented a valid ticket, which cannot be used again."""

    arrival: Arrival


@attrs.frozen
class ControlRequest(Value):
    """The peer is going to present a token."""

    #: The id of the access key of which it has proved possession; None if it has not.
    key_id: bytes | None
    #: Whether it verifies the relay's certificate by a CA.
    by_ca: bool


Request: TypeAlias = ProbeRequest | DataRequest | ControlRequest


class RequestReader:
    """Reads preambles.

    Args:
        use_ticket: uses the ticket of a data channel; raises RemoteProtocolError if it is not valid.
        prove: returns the id of the access key with which the proof of a control channel was made, or None.
    """

    def __init__(self, use_ticket: Callable[[bytes], Arrival], prove: Callable[[bytes], bytes | None]) -> None:
        self._use_ticket = use_ticket
        self._prove = prove

    def decode(self, port: OpenPort, preamble: bytes) -> Request:
        """Decode a preamble that was received on this port.

        Raises:
            RemoteProtocolError: the peer has to be refused, with the error's reason.
        """
        said = decode_preamble_untrusted(preamble)
        if said.purpose not in port.purposes:
            raise RemoteProtocolError("wrong port", reason=Reason.WRONG_PORT)
        match said.purpose:
            case Purpose.DATA:
                return DataRequest(self._use_ticket(said.credential))
            case Purpose.CONTROL:
                return ControlRequest(self._prove(said.credential), said.by_ca)
            case Purpose.PROBE:
                return ProbeRequest()

    async def read(self, port: OpenPort, stream: trio.abc.HalfCloseableStream) -> Request:
        """Read a preamble and answer it. A valid ticket is answered later, when the other side has arrived too.

        Raises:
            RemoteProtocolError: the peer was refused, and the reason was sent to it.
            trio.BrokenResourceError: the connection was lost.
        """
        try:
            request = self.decode(port, await receive_exactly(stream, PREAMBLE_SIZE))
        except RemoteProtocolError as exc:
            await stream.send_all(encode_status(exc.reason))
            await stream.aclose()
            raise
        if not isinstance(request, DataRequest):
            await stream.send_all(encode_status(Reason.NO_ERROR))
        return request
