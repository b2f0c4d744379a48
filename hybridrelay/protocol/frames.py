"""Frames and their bytes. SPEC.md, sections 2 and 3.

There is one class for each type of frame, used in both directions. When a frame is constructed, the lengths of its
fields, limits, kinds and features are checked; its stream id and other numbers are not. `encode` returns the header
and payload as one bytes object. For DATA and DATAGRAM, `data_header` and `datagram_header` return the header alone,
so that the payload need not be copied. `FrameDecoder` turns arbitrary pieces of a byte stream into frames.
"""

# This module is long because there are many types of frames.

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from typing import ClassVar

import attrs

from .._value import Value
from .config import MAX_DATA, MAX_DATAGRAM
from .errors import RemoteProtocolError
from .features import ALL_FEATURE_BITS
from .metadata import NO_METADATA, Metadata, decode_metadata_untrusted
from .reasons import Reason

HEADER = struct.Struct(">II")
HEADER_SIZE = HEADER.size
#: The largest payload of a frame other than DATA and DATAGRAM (bytes).
MAX_CONTROL = 1280
#: The longest text in a frame (bytes of UTF-8).
MAX_TEXT = 256
#: The greatest epoch of a channel. The session ends with that channel.
MAX_EPOCH = 0xFFFF_FFFF
#: The greatest limit in OPEN, OPENED and WINDOW (a number of bytes). A greater value is an error of the peer.
MAX_LIMIT = 1 << 62
#: Frames of unknown types are ignored if the type is at least this number. A lower unknown type is an error.
FIRST_IGNORABLE_TYPE = 0x80

SESSION_ID_SIZE = 16
SESSION_SECRET_SIZE = 32

_U64 = struct.Struct(">Q")
_U16 = struct.Struct(">H")
_OPEN = struct.Struct(">QB")
_HELLO = struct.Struct(f">BBHII{SESSION_ID_SIZE}s{SESSION_SECRET_SIZE}sIQQ")
_GOAWAY = struct.Struct(">HHI")
_ATTACH = 0x0001
_FINAL = 0x0001


def _bounded(size: int) -> Callable[[object, object, bytes | str], None]:
    def check(instance: object, attribute: object, value: bytes | str) -> None:
        if len(value.encode() if isinstance(value, str) else value) > size:
            raise ValueError(f"longer than {size} bytes")

    return check


def _exactly(size: int) -> Callable[[object, object, bytes], None]:
    def check(instance: object, attribute: object, value: bytes) -> None:
        if len(value) != size:
            raise ValueError(f"not {size} bytes")

    return check


def _limit(instance: object, attribute: object, value: int) -> None:
    if not 0 <= value <= MAX_LIMIT:
        raise ValueError("limit out of range")


def _octet(instance: object, attribute: object, value: int) -> None:
    if not 0 <= value <= 0xFF:
        raise ValueError("not a number from 0 to 255")


def clip_text(text: str) -> str:
    """Return `text`, cut so that its UTF-8 encoding fits in a frame."""
    return text.encode("utf-8", "replace")[:MAX_TEXT].decode("utf-8", "ignore")


class Frame(Value):
    """The base class of frames. `counted` frames are numbered, acknowledged, and sent again if necessary."""

    __slots__ = ()
    TYPE: ClassVar[int]
    counted: ClassVar[bool] = False
    stream: int

    def payload(self) -> bytes:
        return b""

    def encode(self) -> bytes:
        payload = self.payload()
        return HEADER.pack(self.TYPE << 24 | len(payload), self.stream) + payload


class _SessionFrame(Frame):
    __slots__ = ()
    stream: ClassVar[int] = 0  # type: ignore[misc]


@attrs.frozen
class Hello(_SessionFrame):
    TYPE: ClassVar[int] = 0x01
    session_id: bytes = attrs.field(validator=_exactly(SESSION_ID_SIZE))
    secret: bytes = attrs.field(validator=_exactly(SESSION_SECRET_SIZE), repr=False)
    #: How many streams the peer may have open at a time.
    max_streams: int
    #: How many counted frames the sender has received and written in this session; 0 on the first channel.
    received: int = 0
    written: int = 0
    #: 0 for the first channel of a session, greater on each later one.
    epoch: int = 0
    #: Whether the sender continues a session over another channel.
    attach: bool = False
    #: The highest and the lowest version of the session protocol that the sender speaks.
    version: int = 1
    min_version: int = 1
    #: The features that the sender offers, one bit each. A peer may set bits that this version does not know.
    features: int = attrs.field(default=0, validator=attrs.validators.in_(range(ALL_FEATURE_BITS + 1)))

    def payload(self) -> bytes:
        flags = _ATTACH if self.attach else 0
        return _HELLO.pack(
            self.version,
            self.min_version,
            flags,
            self.features,
            self.max_streams,
            self.session_id,
            self.secret,
            self.epoch,
            self.received,
            self.written,
        )


@attrs.frozen
class Open(Frame):
    TYPE: ClassVar[int] = 0x02
    counted: ClassVar[bool] = True
    stream: int
    limit: int = attrs.field(validator=_limit)
    #: One of `Kind`. A peer may state a kind that this version does not know.
    kind: int = attrs.field(default=0, validator=_octet)
    metadata: Metadata = NO_METADATA

    def payload(self) -> bytes:
        return _OPEN.pack(self.limit, self.kind) + self.metadata.encode()


@attrs.frozen
class Opened(Frame):
    TYPE: ClassVar[int] = 0x03
    counted: ClassVar[bool] = True
    stream: int
    limit: int = attrs.field(validator=_limit)

    def payload(self) -> bytes:
        return _U64.pack(self.limit)


@attrs.frozen
class _ReasonFrame(Frame):
    counted: ClassVar[bool] = True
    stream: int
    reason: Reason
    text: str = attrs.field(default="", validator=_bounded(MAX_TEXT))

    def payload(self) -> bytes:
        return _U16.pack(self.reason) + self.text.encode()


@attrs.frozen
class Refused(_ReasonFrame):
    TYPE: ClassVar[int] = 0x04


@attrs.frozen
class Data(Frame):
    TYPE: ClassVar[int] = 0x05
    counted: ClassVar[bool] = True
    stream: int
    data: bytes = attrs.field(repr=False)

    @data.validator
    def _check(self, attribute: object, value: bytes) -> None:
        if not 0 < len(value) <= MAX_DATA:
            raise ValueError("DATA carries 1 to 65536 bytes")

    def payload(self) -> bytes:
        return self.data


@attrs.frozen
class Fin(Frame):
    TYPE: ClassVar[int] = 0x06
    counted: ClassVar[bool] = True
    stream: int


@attrs.frozen
class Reset(_ReasonFrame):
    TYPE: ClassVar[int] = 0x07


@attrs.frozen
class Stop(_ReasonFrame):
    TYPE: ClassVar[int] = 0x08


@attrs.frozen
class Window(Frame):
    TYPE: ClassVar[int] = 0x09
    stream: int
    limit: int = attrs.field(validator=_limit)

    def payload(self) -> bytes:
        return _U64.pack(self.limit)


@attrs.frozen
class Ack(_SessionFrame):
    TYPE: ClassVar[int] = 0x0A
    count: int

    def payload(self) -> bytes:
        return _U64.pack(self.count)


@attrs.frozen
class Ping(_SessionFrame):
    TYPE: ClassVar[int] = 0x0B
    token: bytes = attrs.field(validator=_exactly(8))

    def payload(self) -> bytes:
        return self.token


@attrs.frozen
class Pong(_SessionFrame):
    TYPE: ClassVar[int] = 0x0C
    token: bytes = attrs.field(validator=_exactly(8))

    def payload(self) -> bytes:
        return self.token


@attrs.frozen
class GoAway(_SessionFrame):
    TYPE: ClassVar[int] = 0x0D
    reason: Reason
    last_stream: int
    final: bool = False
    text: str = attrs.field(default="", validator=_bounded(MAX_TEXT))

    def payload(self) -> bytes:
        return _GOAWAY.pack(self.reason, _FINAL if self.final else 0, self.last_stream) + self.text.encode()


@attrs.frozen
class Datagram(Frame):
    """One datagram of a flow. Only known if the feature *datagrams* is in use."""

    TYPE: ClassVar[int] = 0x0E
    stream: int
    data: bytes = attrs.field(repr=False, validator=attrs.validators.max_len(MAX_DATAGRAM))

    def payload(self) -> bytes:
        return self.data


@attrs.frozen
class Ignorable(Frame):
    """A frame of an unknown type, which is ignored. Its stream id may be any number."""

    #: At least `FIRST_IGNORABLE_TYPE`.
    type: int = attrs.field(validator=attrs.validators.in_(range(FIRST_IGNORABLE_TYPE, 0x100)))
    stream: int
    data: bytes = attrs.field(default=b"", repr=False, validator=_bounded(MAX_CONTROL))

    def encode(self) -> bytes:
        return HEADER.pack(self.type << 24 | len(self.data), self.stream) + self.data


_DATA = Data.TYPE


def data_header(stream: int, length: int) -> bytes:
    """Return the header of a DATA frame. The payload is written after it."""
    return HEADER.pack(Data.TYPE << 24 | length, stream)


def datagram_header(stream: int, length: int) -> bytes:
    """Return the header of a DATAGRAM frame. The payload is written after it."""
    return HEADER.pack(Datagram.TYPE << 24 | length, stream)


# --- decoding

# Each function takes (stream, payload), and raises ValueError or struct.error if the payload is malformed.
# `FrameDecoder` turns these into RemoteProtocolError.


def _text(payload: bytes, offset: int) -> str:
    if len(payload) - offset > MAX_TEXT:
        raise ValueError("text too long")
    # Replacing an invalid byte makes the text longer, so it is clipped again.
    return clip_text(payload[offset:].decode("utf-8", "replace"))


def _decode_hello(stream: int, payload: bytes) -> Hello:
    fields = _HELLO.unpack_from(payload)
    version, min_version, flags, features, max_streams, session_id, secret, epoch, received, written = fields
    attach = bool(flags & _ATTACH)
    return Hello(session_id, secret, max_streams, received, written, epoch, attach, version, min_version, features)


def _decode_goaway(stream: int, payload: bytes) -> GoAway:
    code, flags, last_stream = _GOAWAY.unpack_from(payload)
    return GoAway(Reason.from_wire(code), last_stream, bool(flags & _FINAL), _text(payload, _GOAWAY.size))


def _decode_open(stream: int, payload: bytes) -> Open:
    limit, kind = _OPEN.unpack_from(payload)
    return Open(stream, limit, kind, decode_metadata_untrusted(payload[_OPEN.size :]))


def _decode_fin(stream: int, payload: bytes) -> Fin:
    if payload:
        raise ValueError("FIN carries nothing")
    return Fin(stream)


def _ignorable_decoder(kind: int) -> Callable[[int, bytes], Frame]:
    return lambda stream, payload: Ignorable(kind, stream, payload)


def _reason_decoder(kind: type[_ReasonFrame]) -> Callable[[int, bytes], Frame]:
    def decode(stream: int, payload: bytes) -> Frame:
        # NO_ERROR in an abort is read as CANCELLED, because elsewhere it means a normal end.
        reason = Reason.from_wire(_U16.unpack_from(payload)[0]) or Reason.CANCELLED
        return kind(stream, reason, _text(payload, 2))

    return decode


_DECODERS: dict[int, Callable[[int, bytes], Frame]] = {
    Hello.TYPE: _decode_hello,
    Open.TYPE: _decode_open,
    Opened.TYPE: lambda stream, payload: Opened(stream, _U64.unpack(payload)[0]),
    Refused.TYPE: _reason_decoder(Refused),
    Data.TYPE: Data,
    Fin.TYPE: _decode_fin,
    Reset.TYPE: _reason_decoder(Reset),
    Stop.TYPE: _reason_decoder(Stop),
    Window.TYPE: lambda stream, payload: Window(stream, _U64.unpack(payload)[0]),
    Ack.TYPE: lambda stream, payload: Ack(_U64.unpack(payload)[0]),
    Ping.TYPE: lambda stream, payload: Ping(payload),
    Pong.TYPE: lambda stream, payload: Pong(payload),
    GoAway.TYPE: _decode_goaway,
    Datagram.TYPE: Datagram,
    **{kind: _ignorable_decoder(kind) for kind in range(FIRST_IGNORABLE_TYPE, 0x100)},
}
_SESSION_TYPES = frozenset({Hello.TYPE, Ack.TYPE, Ping.TYPE, Pong.TYPE, GoAway.TYPE})


class FrameDecoder:
    """Splits a byte stream into frames. Between calls, it buffers at most one incomplete frame; if a generator was
    closed early, also the frames that it has not yielded.

    The length of a frame is checked as soon as its header has arrived, before the rest of its payload is awaited.

    Args:
        max_data: the largest payload of a DATA frame.
        datagrams: whether DATAGRAM frames are known.
    """

    __slots__ = ("_kept", "_wanted", "datagrams", "max_data")

    def __init__(self, max_data: int = MAX_DATA, *, datagrams: bool = False) -> None:
        #: May be changed at any time, like `max_data`.
        self.datagrams = datagrams
        #: May be changed at any time. The new value applies to all frames that have not been yielded.
        self.max_data = max_data
        self._kept = bytearray()
        #: How many bytes must have arrived before anything can be decoded: the header, or the whole frame.
        self._wanted = HEADER_SIZE

    def decode_untrusted(self, data: bytes | bytearray | memoryview) -> Generator[Frame, None, None]:
        """Yield the frames that `data` completes. No reference to `data` is kept: frames contain copies.

        If the generator is closed early, the next call yields the remaining frames; see `has_frames`.

        Raises:
            RemoteProtocolError: malformed; the decoder must not be used again. Any other exception is a bug.
        """
        if self._kept:
            self._kept += data
            # Decode only when enough has arrived. Otherwise, input byte by byte would cost quadratic time.
            if len(self._kept) < self._wanted:
                return
            data, self._kept = memoryview(self._kept), bytearray()
        position, end = 0, len(data)
        wanted = HEADER_SIZE
        try:
            while True:
                if end - position < wanted:
                    break
                word, stream = HEADER.unpack_from(data, position)
                kind, length = word >> 24, word & 0xFFFFFF
                if kind != _DATA or length > self.max_data or not stream:  # DATA, the most frequent, is checked here
                    self._check_header(kind, length, stream)
                wanted += length
                if end - position < wanted:
                    break
                payload = bytes(data[position + HEADER_SIZE : position + wanted])
                position += wanted
                wanted = HEADER_SIZE
                try:
                    frame = _DECODERS[kind](stream, payload)
                except (ValueError, struct.error) as exc:
                    raise RemoteProtocolError(f"malformed frame of type {kind:#04x}: {exc}") from None
                yield frame
        finally:
            self._kept += data[position:]
            self._wanted = wanted

    @property
    def held_bytes(self) -> int:
        """How many bytes are kept here: of an incomplete frame, and of frames that have not been yielded."""
        return len(self._kept)

    @property
    def has_frames(self) -> bool:
        """Whether complete frames may not have been yielded yet. Continue with ``decode_untrusted(b"")``."""
        return len(self._kept) >= self._wanted

    def _check_header(self, kind: int, length: int, stream: int) -> None:
        if kind not in _DECODERS or (kind == Datagram.TYPE and not self.datagrams):
            raise RemoteProtocolError(f"unknown frame type {kind:#04x}")
        if length > (self.max_data if kind == Data.TYPE else MAX_DATAGRAM if kind == Datagram.TYPE else MAX_CONTROL):
            raise RemoteProtocolError(f"a frame of type {kind:#04x} has {length} bytes, which is too long")
        if (stream == 0) != (kind in _SESSION_TYPES) and kind < FIRST_IGNORABLE_TYPE:
            must = "must not" if kind in _SESSION_TYPES else "must"
            raise RemoteProtocolError(f"a frame of type {kind:#04x} {must} have a stream id, and has {stream}")
