"""One table of frames and their bytes, read four ways; and what is malformed."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.protocol import Metadata, MetadataEntry, Reason, RemoteProtocolError
from hybridrelay.protocol.frames import (
    MAX_LIMIT,
    Ack,
    Data,
    Datagram,
    Fin,
    Frame,
    FrameDecoder,
    GoAway,
    Hello,
    Ignorable,
    Open,
    Opened,
    Ping,
    Pong,
    Refused,
    Reset,
    Stop,
    Window,
    clip_text,
    data_header,
    datagram_header,
)

ID, SECRET = bytes(range(16)), bytes(range(100, 132))

META = Metadata((MetadataEntry(0x4001, b"meta"), MetadataEntry(1, b"", critical=True)))
LONGEST = Metadata((MetadataEntry(1, b"m" * 512), MetadataEntry(0x7FFF, b"n" * 504)))

#: Written out by hand from SPEC.md.
FRAMES: list[tuple[Frame, str]] = [
    (
        Hello(ID, SECRET, 12_000),
        "01 000050 00000000  01 01 0000 00000000 00002ee0"
        + ID.hex()
        + SECRET.hex()
        + "00000000"
        + 2 * "0000000000000000",
    ),
    (
        Hello(ID, SECRET, 1, received=7, written=9, epoch=3, attach=True, version=4, min_version=1),
        "01 000050 00000000  04 01 0001 00000000 00000001"
        + ID.hex()
        + SECRET.hex()
        + "00000003 0000000000000007 0000000000000009",
    ),
    (
        Hello(ID, SECRET, 1, features=0x8000_0001),
        "01 000050 00000000  01 01 0000 80000001 00000001" + ID.hex() + SECRET.hex() + 20 * "00",
    ),
    (Open(1, 16_384), "02 000009 00000001  0000000000004000 00"),
    (Open(3, 0, kind=2), "02 000009 00000003  0000000000000000 02"),
    (Open(3, 0, metadata=META), "02 000015 00000003  0000000000000000 00 4001 0004 6d657461 8001 0000"),
    (
        Open(5, 0, 255, LONGEST),
        "02 000409 00000005  0000000000000000 ff 0001 0200" + "6d" * 512 + "7fff 01f8" + "6e" * 504,
    ),
    (Opened(1, 262_144), "03 000008 00000001  0000000000040000"),
    (Refused(1, Reason.TARGET_REFUSED), "04 000002 00000001  0001"),
    (Refused(1, Reason.LIMIT, "full"), "04 000006 00000001  0007 66756c6c"),
    (Data(0xFFFFFFFF, b"x"), "05 000001 ffffffff  78"),
    (Data(2, b"y" * 65_536), "05 010000 00000002" + "79" * 65_536),
    (Fin(4), "06 000000 00000004"),
    (Reset(4, Reason.TARGET_RESET, "ü"), "07 000004 00000004  0005 c3bc"),
    (Reset(4, Reason.CANCELLED, "t" * 256), "07 000102 00000004  0008" + "74" * 256),
    (Stop(4, Reason.CANCELLED), "08 000002 00000004  0008"),
    (Window(7, MAX_LIMIT), "09 000008 00000007  4000000000000000"),
    (Ack(258), "0a 000008 00000000  0000000000000102"),
    (Ping(b"12345678"), "0b 000008 00000000  3132333435363738"),
    (Pong(b"12345678"), "0c 000008 00000000  3132333435363738"),
    (GoAway(Reason.NO_ERROR, 0), "0d 000008 00000000  0000 0000 00000000"),
    (Datagram(6, b""), "0e 000000 00000006"),
    (Datagram(6, b"d" * 65_507), "0e 00ffe3 00000006" + "64" * 65_507),
    (Ignorable(0x80, 0), "80 000000 00000000"),
    (Ignorable(0xFF, 0xFFFFFFFE, b"z" * 1280), "ff 000500 fffffffe" + "7a" * 1280),
    (GoAway(Reason.GOING_AWAY, 9, final=True, text="bye"), "0d 00000b 00000000  0011 0001 00000009 627965"),
]
TABLE = pytest.mark.parametrize(("frame", "hex_bytes"), FRAMES, ids=[repr(frame)[:60] for frame, _ in FRAMES])


def decode(*pieces: bytes) -> list[Frame]:
    decoder = FrameDecoder(datagrams=True)
    return [frame for piece in pieces for frame in decoder.decode_untrusted(piece)]


@TABLE
def test_is_written_as_the_table_says(frame: Frame, hex_bytes: str) -> None:
    assert frame.encode() == bytes.fromhex(hex_bytes)


@TABLE
def test_is_read_whole(frame: Frame, hex_bytes: str) -> None:
    assert decode(bytes.fromhex(hex_bytes)) == [frame]


@TABLE
def test_is_read_byte_by_byte(frame: Frame, hex_bytes: str) -> None:
    data = bytes.fromhex(hex_bytes)
    assert decode(*(data[i : i + 1] for i in range(len(data)))) == [frame]


@TABLE
def test_is_read_before_the_next_frame_and_before_junk(frame: Frame, hex_bytes: str) -> None:
    data = bytes.fromhex(hex_bytes)
    assert decode(data + data[:5], data[5:]) == [frame, frame]
    decoder = FrameDecoder(datagrams=True)
    arriving = decoder.decode_untrusted(data + b"\xff" * 8)
    assert next(arriving) == frame
    with pytest.raises(RemoteProtocolError):
        next(arriving)


def test_every_kind_is_in_the_table() -> None:
    assert {type(frame) for frame, _ in FRAMES} == {
        Hello, Open, Opened, Refused, Data, Fin, Reset, Stop, Window, Ack, Ping, Pong, GoAway, Datagram, Ignorable,
    }  # fmt: skip


def test_the_header_of_data_stands_alone() -> None:
    assert data_header(7, 3) + b"abc" == Data(7, b"abc").encode()
    assert datagram_header(7, 3) + b"abc" == Datagram(7, b"abc").encode()


def test_datagrams_are_unknown_unless_they_are_in_use() -> None:
    with pytest.raises(RemoteProtocolError, match="unknown frame type 0x0e"):
        list(FrameDecoder().decode_untrusted(Datagram(1, b"").encode()))


def raw(kind: int, stream: int, payload: bytes = b"", *, length: int | None = None) -> bytes:
    return struct.pack(">II", kind << 24 | (len(payload) if length is None else length), stream) + payload


def entry(kind: int, value: bytes) -> bytes:
    return struct.pack(">HH", kind, len(value)) + value


MALFORMED = {
    "type 0": raw(0x00, 0),
    "type beyond the last": raw(0x0F, 0),
    "type below those that are ignored": raw(0x7F, 0),
    "HELLO on a stream": raw(0x01, 1, bytes(80)),
    "ACK on a stream": raw(0x0A, 1, bytes(8)),
    "PING on a stream": raw(0x0B, 1, bytes(8)),
    "PONG on a stream": raw(0x0C, 1, bytes(8)),
    "GOAWAY on a stream": raw(0x0D, 1, bytes(8)),
    **{f"type {kind:#04x} on stream 0": raw(kind, 0, bytes(8)) for kind in (*range(2, 10), 14)},
    "a long DATAGRAM, announced": raw(0x0E, 1, length=65_508),
    "short HELLO": raw(0x01, 0, bytes(79)),
    "short OPEN": raw(0x02, 1, bytes(8)),
    "OPEN with too much metadata": raw(0x02, 1, bytes(9) + entry(1, bytes(512)) + entry(2, bytes(505))),
    "OPEN with a truncated header of metadata": raw(0x02, 1, bytes(9) + entry(1, b"x") + bytes(3)),
    "OPEN with a truncated value": raw(0x02, 1, bytes(9) + entry(1, b"xyz")[:-1]),
    "OPEN with a value that is too long": raw(0x02, 1, bytes(9) + entry(1, bytes(513))),
    "OPEN with metadata of type 0": raw(0x02, 1, bytes(9) + entry(0x8000, b"")),
    "OPEN with two entries of one type": raw(0x02, 1, bytes(9) + entry(5, b"") + entry(0x8005, b"")),
    "OPEN with too many entries": raw(0x02, 1, bytes(9) + b"".join(entry(i, b"") for i in range(1, 18))),
    "OPEN with an impossible limit": raw(0x02, 1, struct.pack(">QB", MAX_LIMIT + 1, 0)),
    "short OPENED": raw(0x03, 1, bytes(7)),
    "long OPENED": raw(0x03, 1, bytes(9)),
    "REFUSED without reason": raw(0x04, 1, b"\0"),
    "REFUSED with too much text": raw(0x04, 1, bytes(2 + 257)),
    "empty DATA": raw(0x05, 1),
    "too much DATA": raw(0x05, 1, length=65_537),
    "FIN with payload": raw(0x06, 1, b"\0"),
    "RESET without reason": raw(0x07, 1),
    "STOP without reason": raw(0x08, 1),
    "STOP with too much text": raw(0x08, 1, bytes(2 + 257)),
    "short WINDOW": raw(0x09, 1, bytes(7)),
    "WINDOW with an impossible limit": raw(0x09, 1, b"\xff" * 8),
    "long ACK": raw(0x0A, 0, bytes(9)),
    "short PING": raw(0x0B, 0, bytes(7)),
    "long PONG": raw(0x0C, 0, bytes(9)),
    "short GOAWAY": raw(0x0D, 0, bytes(7)),
    "GOAWAY with too much text": raw(0x0D, 0, bytes(8 + 257)),
    "a long control frame, announced": raw(0x0D, 0, length=1281),
    "a long frame of an ignorable type, announced": raw(0x80, 0, length=1281),
    "16 MiB of an ignorable type, announced": raw(0xFF, 7, length=0xFFFFFF),
    "16 MiB announced": raw(0x05, 1, length=0xFFFFFF),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_frame_is_an_error_however_it_arrives(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(data)
    assert caught.value.reason is Reason.PROTOCOL_ERROR
    with pytest.raises(RemoteProtocolError):
        decode(*(data[i : i + 1] for i in range(len(data))))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Data(1, b""),
        lambda: Data(1, bytes(65_537)),
        lambda: Open(1, -1),
        lambda: Open(1, 0, kind=256),
        lambda: Metadata([MetadataEntry(1, bytes(512)), MetadataEntry(2, bytes(505))]),
        lambda: Metadata([MetadataEntry(1, b"x"), MetadataEntry(1, b"y")]),
        lambda: Metadata(MetadataEntry(one, b"") for one in range(1, 18)),
        lambda: MetadataEntry(0, b""),
        lambda: MetadataEntry(0x8000, b""),
        lambda: MetadataEntry(1, bytes(513)),
        lambda: Hello(ID, SECRET, 1, features=1 << 32),
        lambda: Ignorable(0x7F, 0),
        lambda: Window(1, MAX_LIMIT + 1),
        lambda: Ping(b""),
        lambda: Reset(1, Reason.LIMIT, "ü" * 129),
        lambda: Hello(b"", SECRET, 1),
        lambda: Hello(ID, b"", 1),
    ],
)
def test_cannot_be_constructed(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        make()


def test_later_versions_may_add_to_hello() -> None:
    payload = Hello(ID, SECRET, 5).payload() + b"something new"
    assert decode(raw(0x01, 0, payload)) == [Hello(ID, SECRET, 5)]


@pytest.mark.parametrize("kind", [Refused, Reset, Stop])
def test_an_abort_without_an_error_was_cancelled(kind: type[Refused | Reset | Stop]) -> None:
    """NO_ERROR is for a normal end: a peer cannot make an abort look like one."""
    assert decode(kind(1, Reason.NO_ERROR, "x").encode()) == [kind(1, Reason.CANCELLED, "x")]


def test_an_unknown_reason_is_an_internal_error() -> None:
    assert decode(raw(0x07, 1, b"\xff\xff")) == [Reset(1, Reason.INTERNAL_ERROR)]


def test_text_that_is_not_utf8_is_repaired_and_still_fits() -> None:
    (frame,) = decode(raw(0x07, 1, b"\0\x08" + b"\xff" * 256))
    assert isinstance(frame, Reset)
    assert frame.text == "\N{REPLACEMENT CHARACTER}" * 85
    assert decode(frame.encode()) == [frame]


def test_secrets_do_not_print() -> None:
    assert "meta" not in repr(Open(3, 0, metadata=META)).replace("metadata", "").replace("Metadata", "")
    assert SECRET.hex() not in repr(Hello(ID, SECRET, 1))
    assert repr(SECRET)[2:-1] not in repr(Hello(ID, SECRET, 1))


@given(st.text())
def test_clipped_text_fits_and_says_as_much_as_it_can(text: str) -> None:
    clipped = clip_text(text)
    assert len(clipped.encode()) <= 256
    if len(text.encode("utf-8", "replace")) <= 256:
        assert clipped == text.encode("utf-8", "replace").decode()
    Reset(1, Reason.LIMIT, clipped)


def test_a_trickled_frame_costs_linear_time_and_no_more_memory_than_it_has_bytes() -> None:
    """What is kept is one buffer that grows, and is looked at only when the frame is complete."""
    decoder = FrameDecoder()
    data = Data(1, bytes(65_536)).encode()
    for i in range(len(data) - 1):
        assert not list(decoder.decode_untrusted(data[i : i + 1]))
    assert sys.getsizeof(decoder._kept) < 1.2 * len(data)
    assert len(list(decoder.decode_untrusted(data[-1:]))) == 1
    assert not decoder._kept


def test_a_frame_longer_than_the_decoder_allows_is_refused_by_its_header() -> None:
    decoder = FrameDecoder(max_data=16_384)
    header = Data(1, bytes(16_385)).encode()[:8]
    with pytest.raises(RemoteProtocolError, match="16385 bytes"):
        list(decoder.decode_untrusted(header))
