"""The WebSocket codec: one table of bytes and events, read in every way; then violations; then random bytes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.utils import apply_mask

from hybridrelay.streams.nowait import Buffer
from hybridrelay_websocket.frames import (
    END_OF_DATA,
    MAX_IDLE_FRAMES,
    Close,
    Data,
    EndOfData,
    Event,
    FrameDecoder,
    FrameError,
    Ping,
    encode_close,
    encode_data,
    encode_pong,
)

KEY = bytes.fromhex("37fa213d")  # the one of RFC 6455 section 5.7


def frame(first: int, payload: bytes = b"", *, key: bytes | None = None, length: bytes | None = None) -> bytes:
    """One frame, spelled out: the first byte, then everything else as section 5.2 says."""
    if length is None:
        size = len(payload)
        if size < 126:
            length = bytes([size])
        elif size < 1 << 16:
            length = b"\x7e" + size.to_bytes(2)
        else:
            length = b"\x7f" + size.to_bytes(8)
    if key is None:
        return bytes([first]) + length + payload
    return bytes([first, length[0] | 0x80]) + length[1:] + key + apply_mask(payload, key)


BINARY, LAST, MORE, CONTINUED = 0x82, 0x80, 0x02, 0x00
LONG = bytes(range(256)) * 2
HUGE = bytes(range(256)) * 300

#: The first byte and the payload of each frame that was sent, and the events that they are.
TABLE: dict[str, tuple[list[tuple[int, bytes]], list[Event]]] = {
    "a byte": ([(BINARY, b"x")], [Data(b"x")]),
    "125 bytes": ([(BINARY, LONG[:125])], [Data(LONG[:125])]),
    "126 bytes": ([(BINARY, LONG[:126])], [Data(LONG[:126])]),
    "512 bytes": ([(BINARY, LONG)], [Data(LONG)]),
    "75 KiB": ([(BINARY, HUGE)], [Data(HUGE)]),
    "end of data": ([(BINARY, b"")], [EndOfData()]),
    "data, then its end": ([(BINARY, b"x"), (BINARY, b"")], [Data(b"x"), EndOfData()]),
    "fragments": ([(MORE, b"ab"), (CONTINUED, b"c"), (LAST, b"d")], [Data(b"ab"), Data(b"c"), Data(b"d")]),
    "an empty last fragment ends nothing": (
        [(MORE, b"ab"), (LAST, b""), (BINARY, b"c")],
        [Data(b"ab"), Data(b"c")],
    ),
    "an empty first fragment ends nothing": (
        [(MORE, b""), (CONTINUED, b""), (LAST, b"d"), (BINARY, b"e")],
        [Data(b"d"), Data(b"e")],
    ),
    "an end of data in fragments": ([(MORE, b""), (CONTINUED, b""), (LAST, b"")], [EndOfData()]),
    "an end of data after a message with an empty end": (
        [(MORE, b"a"), (LAST, b""), (BINARY, b"")],
        [Data(b"a"), EndOfData()],
    ),
    "ping": ([(0x89, b"")], [Ping(b"")]),
    "ping with payload": ([(0x89, LONG[:125])], [Ping(LONG[:125])]),
    "pong": ([(0x8A, b"x"), (BINARY, b"y")], [Data(b"y")]),
    "ping between fragments": (
        [(MORE, b"a"), (0x89, b"p"), (LAST, b"b")],
        [Data(b"a"), Ping(b"p"), Data(b"b")],
    ),
    "close": ([(0x88, b"")], [Close(None)]),
    "close with code": ([(0x88, b"\x03\xe8")], [Close(1000)]),
    "close with text": ([(0x88, b"\x03\xe9bye")], [Close(1001)]),
    "close after the end": ([(BINARY, b""), (0x88, b"\x03\xe8")], [EndOfData(), Close(1000)]),
}


def encoded(frames: Iterable[tuple[int, bytes]], key: bytes | None) -> bytes:
    return b"".join(frame(first, payload, key=key) for first, payload in frames)


def events(decoder: FrameDecoder, data: bytes, *, cut: int | None = None, max_bytes: int = 1 << 20) -> list[Event]:
    """Feed ``data`` to the decoder in pieces of ``cut`` bytes. Returns its events."""
    found: list[Event] = []
    for start in range(0, len(data), cut or len(data)):
        decoder.receive_untrusted(data[start : start + (cut or len(data))])
        while (event := decoder.next_event(max_bytes)) is not None:
            found.append(event)
            if isinstance(event, Close):
                return found
    return found


def joined(found: Iterable[Event]) -> list[Event]:
    result: list[Event] = []
    for event in found:
        if isinstance(event, Data) and result and isinstance(before := result[-1], Data):
            result[-1] = Data(bytes(before.payload) + bytes(event.payload))
            continue
        result.append(event)
    return result


@pytest.mark.parametrize("key", [None, KEY, bytes(4)], ids=["server", "client", "zero key"])
@pytest.mark.parametrize("cut", [None, 1, 2, 3, 7], ids=lambda cut: f"cut{cut}")
@pytest.mark.parametrize("name", TABLE)
def test_frames_are_decoded_however_they_arrive(name: str, cut: int | None, key: bytes | None) -> None:
    frames, expected = TABLE[name]
    found = events(FrameDecoder(masked=key is not None), encoded(frames, key), cut=cut)
    assert joined(found) == joined(expected)


IDLE = pytest.mark.parametrize(
    "idle", [(0x89, b"ping"), (0x8A, b""), (CONTINUED, b"")], ids=["ping", "pong", "fragment"]
)


@IDLE
def test_a_flood_of_frames_without_data_is_an_error(idle: tuple[int, bytes]) -> None:
    decoder = FrameDecoder(masked=False)
    decoder.receive_untrusted(encoded([(MORE, b"x")], None))
    assert decoder.next_event(1) == Data(b"x")
    assert decoder.next_event(1) is None
    for _ in range(2):  # it is what comes at the same time that counts
        decoder.receive_untrusted(encoded([idle] * MAX_IDLE_FRAMES, None))
        while decoder.next_event(1) is not None:
            pass
    decoder.receive_untrusted(encoded([idle] * (MAX_IDLE_FRAMES + 1), None))
    with pytest.raises(FrameError, match="too many frames without data"):
        list(iter(lambda: decoder.next_event(1), None))


@IDLE
def test_a_stranger_may_send_few_frames_of_any_kind(idle: tuple[int, bytes]) -> None:
    decoder = FrameDecoder(masked=False)
    decoder.frames_left = 8
    decoder.receive_untrusted(encoded([(MORE, b"x")], None))
    for _ in range(3):
        decoder.receive_untrusted(encoded([(CONTINUED, bytes(100)), idle], None))
        assert sum(len(event.payload) for event in iter(lambda: decoder.next_event(200), None) if type(event) is Data)
    decoder.receive_untrusted(encoded([idle], None)[:-1])
    assert decoder.next_event(200) is None, "what is not complete does not count"
    decoder.receive_untrusted(encoded([idle], None)[-1:] + encoded([idle, idle], None))
    with pytest.raises(FrameError, match="before authentication"):
        list(iter(lambda: decoder.next_event(200), None))


def test_small_messages_with_an_empty_end_are_not_a_flood() -> None:
    """Some intermediaries send such frames."""
    decoder = FrameDecoder(masked=False)
    decoder.receive_untrusted(encoded([(MORE, b"x"), (LAST, b"")] * (MAX_IDLE_FRAMES + 1), None))
    assert len(list(iter(lambda: decoder.next_event(1), None))) == MAX_IDLE_FRAMES + 1


@pytest.mark.parametrize("key", [None, KEY], ids=["server", "client"])
@pytest.mark.parametrize("name", [name for name in TABLE if "close" not in name and "end of data" not in name])
def test_what_follows_is_not_lost(name: str, key: bytes | None) -> None:
    frames, expected = TABLE[name]
    found = events(FrameDecoder(masked=key is not None), encoded([*frames, (0x89, b"next")], key))
    assert joined(found) == [*joined(expected), Ping(b"next")]


@pytest.mark.parametrize("max_bytes", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("key", [None, KEY], ids=["server", "client"])
def test_no_payload_exceeds_the_maximum(max_bytes: int, key: bytes | None) -> None:
    found = events(
        FrameDecoder(masked=key is not None), encoded([(MORE, LONG), (LAST, LONG)], key), max_bytes=max_bytes
    )
    assert all(isinstance(event, Data) and len(event.payload) <= max_bytes for event in found)
    assert joined(found) == [Data(LONG + LONG)]


def test_the_example_of_the_standard() -> None:
    assert events(FrameDecoder(masked=False), bytes.fromhex("8205 48656c6c6f")) == [Data(b"Hello")]
    assert events(FrameDecoder(masked=True), bytes.fromhex("8285 37fa213d 7f9f4d5158")) == [Data(b"Hello")]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 300_000])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_encoded_data_is_decoded(size: int, masked: bool, kind: Callable[[bytes], Buffer]) -> None:
    payload = (bytes(range(256)) * (size // 256 + 1))[:size]
    header, body = encode_data(kind(payload), masked=masked)
    found = events(FrameDecoder(masked=masked), header + bytes(body))
    assert found == ([Data(payload)] if payload else [EndOfData()])


def test_frames_have_these_bytes() -> None:
    assert encode_data(b"Hello", masked=False) == (bytes.fromhex("8205"), b"Hello")
    assert encode_data(END_OF_DATA, masked=False) == (bytes.fromhex("8200"), b"")
    assert encode_pong(b"Hello", masked=False) == bytes.fromhex("8a05 48656c6c6f")
    assert encode_close(1002, masked=False) == bytes.fromhex("8802 03ea")
    assert events(FrameDecoder(masked=True), encode_close(1002, masked=True)) == [Close(1002)]


def test_every_frame_has_a_key_of_its_own() -> None:
    keys = {encode_data(b"x", masked=True)[0][2:] for _ in range(100)}
    assert len(keys) > 90
    assert {len(key) for key in keys} == {4}


def test_unmasked_payload_is_not_copied() -> None:
    payload = memoryview(bytes(1000))
    assert encode_data(payload, masked=False)[1] is payload


BROKEN = {
    "text": frame(0x81, b"x"),
    "reserved bit 1": frame(0xC2, b"x"),
    "reserved bit 2": frame(0xA2, b"x"),
    "reserved bit 3": frame(0x92, b"x"),
    "reserved opcode": frame(0x83, b"x"),
    "reserved control opcode": frame(0x8B),
    "ping in fragments": frame(0x09, b"x"),
    "close in fragments": frame(0x08),
    "long ping": frame(0x89, bytes(126)),
    "long close": frame(0x88, b"\x03\xe8" + bytes(124)),
    "half a close code": frame(0x88, b"\x03"),
    "a continuation of nothing": frame(LAST, b"x"),
    "a message inside another": frame(MORE, b"x") + frame(BINARY, b"y"),
    "16 bits for a small length": frame(BINARY, bytes(125), length=b"\x7e\x00\x7d"),
    "64 bits for a small length": frame(BINARY, bytes(126), length=b"\x7f" + (126).to_bytes(8)),
    "a length with its highest bit set": frame(BINARY, b"x", length=b"\x7f" + (1 << 63).to_bytes(8)),
    "masked by the server": frame(BINARY, b"x", key=KEY),
    "data after the end": frame(BINARY) + frame(BINARY, b"x"),
    "a second end": frame(BINARY) + frame(BINARY),
}


@pytest.mark.parametrize("cut", [None, 1])
@pytest.mark.parametrize("name", BROKEN)
def test_a_violation_ends_the_decoding_for_good(name: str, cut: int | None) -> None:
    decoder = FrameDecoder(masked=False)
    with pytest.raises(FrameError) as first:
        events(decoder, BROKEN[name], cut=cut)
    decoder.receive_untrusted(frame(BINARY, b"x"))
    with pytest.raises(FrameError, match=str(first.value)):
        decoder.next_event(1)


def test_unmasked_by_the_client() -> None:
    with pytest.raises(FrameError, match="not masked"):
        events(FrameDecoder(masked=True), frame(BINARY, b"x"))


def test_nothing_is_decoded_after_a_close() -> None:
    decoder = FrameDecoder(masked=False)
    decoder.receive_untrusted(frame(0x88) + frame(0x81))
    assert decoder.next_event(1) == decoder.next_event(1) == Close(None)


def test_a_message_longer_than_any_memory_is_only_a_number() -> None:
    decoder = FrameDecoder(masked=False)
    decoder.receive_untrusted(b"\x82\x7f" + ((1 << 63) - 1).to_bytes(8) + b"x")
    assert decoder.next_event(1 << 30) == Data(b"x")
    assert decoder.next_event(1 << 30) is None


def test_an_idle_decoder_holds_nothing() -> None:
    decoder = FrameDecoder(masked=False)
    data = frame(BINARY, HUGE)
    events(decoder, data)
    assert not decoder._input
    events(decoder, data + b"\x82")
    assert bytes(decoder._input) == b"\x82"


all_frames = b"".join(
    encoded(frames, KEY)
    for frames, expected in TABLE.values()
    if expected[0] != Data(HUGE) and not any(isinstance(event, EndOfData | Close) for event in expected)
)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(all_frames) - 1), st.integers(0, 255)), max_size=20),
    st.lists(st.integers(1, 50), min_size=1),
    st.integers(1, 100),
)
def test_only_the_one_exception_escapes(mutations: list[tuple[int, int]], cuts: list[int], max_bytes: int) -> None:
    data = bytearray(all_frames)
    for position, value in mutations:
        data[position] = value
    decoder = FrameDecoder(masked=True)
    try:
        while data:
            cut = cuts[len(data) % len(cuts)]
            decoder.receive_untrusted(bytes(data[:cut]))
            del data[:cut]
            while (event := decoder.next_event(max_bytes)) is not None and not isinstance(event, Close):
                assert not isinstance(event, Data) or 1 <= len(event.payload) <= max_bytes
            # All that may be kept is an unfinished header or control frame.
            assert len(decoder._input) < 14 + 125
    except FrameError:
        pass


@settings(deadline=None)
@given(
    st.lists(st.binary(max_size=300), max_size=10),
    st.lists(st.integers(0, 40), min_size=1),
    st.lists(st.integers(1, 400), min_size=1),
    st.booleans(),
)
def test_data_survives_any_fragmentation(
    messages: list[bytes], fragments: list[int], cuts: list[int], masked: bool
) -> None:
    key = KEY if masked else None
    sizes = itertools.cycle([*fragments, 7])  # empty fragments too, but not only
    wire = bytearray()
    for message in messages:
        opcode, rest = 2, message
        while rest:
            size = next(sizes)
            wire += frame(opcode, rest[:size], key=key)
            opcode, rest = 0, rest[size:]
        if message:
            wire += frame(LAST, b"", key=key)
    wire += frame(BINARY, b"", key=key)
    decoder, found, data = FrameDecoder(masked=masked), [], bytes(wire)
    while data:
        cut = cuts[len(data) % len(cuts)]
        found += events(decoder, data[:cut])
        data = data[cut:]
    expected = b"".join(messages)
    assert joined(found) == ([Data(expected)] if expected else []) + [EndOfData()]
