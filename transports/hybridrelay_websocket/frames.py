"""WebSocket frames, without I/O: RFC 6455 section 5, and one convention of our own.

Rules:

- Bytes are sent in binary messages. The boundaries of messages have no meaning; intermediaries may split and join
  them.
- An *empty binary message* signals the end of data in that direction: a half-close, which WebSocket does not have.
  The whole message has to be empty: an empty last fragment of a message that carried data has no effect.
- No extension is negotiated, so reserved bits are zero. Text messages are not used.
- Frames from the client are masked, frames from the server are not.

`FrameDecoder` returns payload as it arrives: it does not wait for complete frames, and holds nothing beyond the bytes
that were passed in.
"""

from __future__ import annotations

import enum
import os
import struct

import attrs

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover  # the wheel has it for every common platform
    from websockets.utils import apply_mask

__all__ = [
    "END_OF_DATA",
    "Close",
    "Data",
    "EndOfData",
    "Event",
    "FrameDecoder",
    "FrameError",
    "Interrupted",
    "Ping",
    "encode_close",
    "encode_data",
    "encode_pong",
]

Buffer = bytes | bytearray | memoryview

_FIN = 0x80
_RESERVED = 0x70
_MASKED = 0x80
_LENGTH_16 = 126
_LENGTH_64 = 127
#: RFC 6455 section 5.5: control frames carry at most 125 bytes, in one piece.
_MAX_CONTROL_PAYLOAD = 125
#: In one read, the number of frames without data may exceed the number of frames with data by this much. A frame
#: costs the same processor time whatever its size, and while frames without data are decoded, no other task runs.
MAX_IDLE_FRAMES = 4096
#: After how many frames without effect, such as pongs, `FrameDecoder.next_event` returns `Interrupted`.
IDLE_FRAMES_AT_ONCE = 32
#: How many frames a peer may send before it has authenticated, with or without data, because a frame costs the same
#: processor time whatever its size. An honest peer sends a few dozen, and some intermediaries split these into
#: smaller ones.
MAX_FRAMES_OF_STRANGER = 1024
_UINT16 = struct.Struct(">H")
_UINT64 = struct.Struct(">Q")
_KEY_SIZE = 4


class Opcode(enum.IntEnum):
    """RFC 6455 section 5.2. Text (1) is missing, since it is refused like any unknown opcode."""

    CONTINUATION = 0x0
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class FrameError(Exception):
    """The peer violated the protocol. No other exception can be caused by its bytes. Answer with Close 1002."""


@attrs.frozen
class Data:
    """Some bytes, never empty."""

    payload: Buffer


@attrs.frozen
class EndOfData:
    """The peer sends no more data; we may continue to send."""


@attrs.frozen
class Ping:
    """A ping, to be answered by a pong with the same payload. Of several, only the last need be answered (section
    5.5.3)."""

    payload: bytes


@attrs.frozen
class Close:
    """The connection ends. Without `EndOfData` before it, data may be missing."""

    code: int | None


@attrs.frozen
class Interrupted:
    """`IDLE_FRAMES_AT_ONCE` frames without effect were decoded; there may be more of them. The caller can pause."""


Event = Data | EndOfData | Ping | Close | Interrupted

#: The payload that makes `encode_data` write the end of data.
END_OF_DATA = b""


def encode_data(payload: Buffer, *, masked: bool) -> tuple[bytes, Buffer]:
    """Encode one binary message. Returns header and payload separately, so that the caller can decide whether to join
    them.

    Without masking, the payload is returned unchanged; with masking, as a copy, masked with a new random key.
    """
    return _encode(Opcode.BINARY, payload, masked=masked)


def encode_pong(payload: bytes, *, masked: bool) -> bytes:
    """Encode the answer to a `Ping`."""
    return b"".join(_encode(Opcode.PONG, payload, masked=masked))


def encode_close(code: int, *, masked: bool) -> bytes:
    """Encode a Close frame without a text. Codes: RFC 6455 section 7.4.1."""
    return b"".join(_encode(Opcode.CLOSE, struct.pack(">H", code), masked=masked))


def _encode(opcode: Opcode, payload: Buffer, *, masked: bool) -> tuple[bytes, Buffer]:
    first, size, mask_bit = _FIN | opcode, len(payload), _MASKED if masked else 0
    if size < _LENGTH_16:
        header = struct.pack(">BB", first, mask_bit | size)
    elif size < 1 << 16:
        header = struct.pack(">BBH", first, mask_bit | _LENGTH_16, size)
    else:
        header = struct.pack(">BBQ", first, mask_bit | _LENGTH_64, size)
    if not masked:
        return header, payload
    # A new unpredictable key for every frame (section 5.3), so that hostile payload cannot look like HTTP to a proxy.
    key = os.urandom(_KEY_SIZE)
    return header + key, apply_mask(payload, key)


@attrs.frozen
class _Header:
    opcode: Opcode
    fin: bool
    length: int
    key: bytes
    #: The size of the header itself (bytes).
    size: int


@attrs.define
class FrameDecoder:
    """Decodes bytes into events.

    Pass what was received to `receive_untrusted`, and then call `next_event` until it returns None, which means that
    more bytes are needed. After a `FrameError` or a `Close` nothing more is decoded: further calls raise or return
    the same again.
    """

    #: Whether the peer must mask its frames, that is, whether it is the client.
    masked: bool
    #: How many more frames the peer may send before it has authenticated; None for no limit.
    frames_left: int | None = attrs.field(default=None, init=False)
    _input: Buffer = attrs.field(default=b"", init=False, repr=False)
    #: How much of `_input` has been decoded.
    _position: int = attrs.field(default=0, init=False)
    #: How many bytes of the current data frame are missing, followed by whether it is the last frame of its
    #: message.
    _frame_left: int = attrs.field(default=0, init=False)
    _frame_fin: bool = attrs.field(default=False, init=False)
    #: The masking key, rotated so that it begins at the next byte; empty if frames are not masked.
    _key: bytes = attrs.field(default=b"", init=False, repr=False)
    #: True from the first header of a message to its last byte.
    _in_message: bool = attrs.field(default=False, init=False)
    _message_empty: bool = attrs.field(default=True, init=False)
    _end_of_data: bool = attrs.field(default=False, init=False)
    #: The number of frames without data that were decoded since the last `receive_untrusted`, minus the number of
    #: those with data; at least 0.
    _idle_frames: int = attrs.field(default=0, init=False)
    _error: str | None = attrs.field(default=None, init=False)
    _close: Close | None = attrs.field(default=None, init=False)

    def receive_untrusted(self, data: Buffer) -> None:
        """Add bytes that the peer has sent, in pieces of any size. This decodes nothing, and so raises nothing.

        Call this when `next_event` has returned None. Then at most an incomplete header or control frame is left of
        the earlier bytes, which is copied. `data` is not copied: it is in use until `next_event` returns None again,
        and payload that is not masked is returned as a view of it.
        """
        rest = self._input[self._position :]
        self._input, self._position = b"".join((rest, data)) if rest else data, 0
        self._idle_frames = 0

    def keep(self) -> None:
        """Copy the bytes that have not been decoded yet. Call this before the `data` of `receive_untrusted` is
        overwritten."""
        if not isinstance(self._input, bytes):
            self._input, self._position = bytes(self._input[self._position :]), 0

    def next_event(self, max_bytes: int) -> Event | None:
        """Return the next event, or None if more bytes are needed. `Data` has at most ``max_bytes`` of payload.

        Raises:
            FrameError: the peer violated the protocol. Any other exception is a bug.
        """
        if self._close is not None:
            return self._close
        if self._error is not None:
            raise FrameError(self._error)
        try:
            event = self._decode(max_bytes)
        except FrameError as exc:
            self._error = str(exc)
            raise
        if event is None:
            # Copy the rest, so that an idle connection does not keep the last large read in memory.
            self._input, self._position = bytes(self._input[self._position :]), 0
        return event

    def _decode(self, max_bytes: int) -> Event | None:
        idle = 0
        while not self._frame_left:
            if idle == IDLE_FRAMES_AT_ONCE:
                return Interrupted()
            header = self._peek_header()
            if header is None:
                return None
            is_control = header.opcode >= Opcode.CLOSE
            if is_control and len(self._input) - self._position < header.size + header.length:
                return None
            self._count(has_data=bool(header.length) and not is_control)
            if not is_control:
                if self._begin_frame(header):
                    return EndOfData()
            elif event := self._take_control(header):
                return event
            idle += not self._frame_left
        return self._take_payload(max_bytes)

    def _count(self, *, has_data: bool) -> None:
        """Count the frame that is about to be decoded."""
        if not has_data:
            self._idle_frames += 1
            if self._idle_frames > MAX_IDLE_FRAMES:
                raise FrameError("too many frames without data")
        elif self._idle_frames:
            self._idle_frames -= 1
        if self.frames_left is not None:
            self.frames_left -= 1
            if self.frames_left < 0:
                raise FrameError("too many frames before authentication")

    def _peek_header(self) -> _Header | None:
        """Parse the header at the current position, without consuming it. None if it is incomplete."""
        at, available = self._position, len(self._input) - self._position
        if available < 2:
            return None
        first, second = self._input[at], self._input[at + 1]
        if first & _RESERVED:
            raise FrameError("reserved bits are set")
        try:
            opcode = Opcode(first & 0x0F)
        except ValueError:
            raise FrameError(f"unexpected opcode {first & 0x0F}") from None
        fin, length, size = bool(first & _FIN), second & 0x7F, 2
        if bool(second & _MASKED) is not self.masked:
            raise FrameError("a frame from the client is not masked" if self.masked else "a frame is masked")
        if opcode >= Opcode.CLOSE and (length > _MAX_CONTROL_PAYLOAD or not fin):
            raise FrameError("a control frame is fragmented or too long")
        if length >= _LENGTH_16:
            layout, shortest = (_UINT16, _LENGTH_16) if length == _LENGTH_16 else (_UINT64, 1 << 16)
            size += layout.size
            if available < size:
                return None
            (length,) = layout.unpack_from(self._input, at + 2)
            if length < shortest or length >> 63:
                raise FrameError("a length is not in its shortest encoding, or has its highest bit set")
        key = b""
        if self.masked:
            key = bytes(self._input[at + size : at + size + _KEY_SIZE])
            size += _KEY_SIZE
            if available < size:
                return None
        return _Header(opcode, fin, length, key, size)

    def _begin_frame(self, header: _Header) -> bool:
        """Begin a data frame. Returns whether it completes an empty message, which ends the data."""
        if self._end_of_data:
            raise FrameError("a data frame after the empty message that ends the data")
        if (header.opcode == Opcode.CONTINUATION) is not self._in_message:
            raise FrameError(
                "a message begins before the previous one has ended"
                if self._in_message
                else "a continuation frame that continues no message"
            )
        self._position += header.size
        self._frame_left, self._frame_fin, self._key = header.length, header.fin, header.key
        self._message_empty = not header.length and (self._message_empty or not self._in_message)
        self._in_message = bool(header.length) or not header.fin
        self._end_of_data = self._message_empty and not self._in_message
        return self._end_of_data

    def _take_control(self, header: _Header) -> Ping | Close | None:
        """Consume a control frame. An unsolicited pong has no effect (section 5.5.3)."""
        start = self._position + header.size
        payload = bytes(self._input[start : start + header.length])
        if self.masked:
            payload = apply_mask(payload, header.key)
        self._position = start + header.length
        if header.opcode == Opcode.PING:
            return Ping(payload)
        if header.opcode == Opcode.PONG:
            return None
        if len(payload) == 1:
            raise FrameError("a close frame has only one byte of the status code")
        self._close = Close(int.from_bytes(payload[:2]) if payload else None)
        return self._close

    def _take_payload(self, max_bytes: int) -> Data | None:
        start = self._position
        end = min(start + self._frame_left, start + max_bytes, len(self._input))
        if end == start:
            return None
        payload: Buffer
        if not self.masked:
            payload = self._input[start:end]
        else:
            payload = apply_mask(memoryview(self._input)[start:end], self._key)
            turn = (end - start) % _KEY_SIZE
            self._key = self._key[turn:] + self._key[:turn]
        self._position = end
        self._frame_left -= end - start
        if not self._frame_left and self._frame_fin:
            self._in_message = False
        return Data(payload)
