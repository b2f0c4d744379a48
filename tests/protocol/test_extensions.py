"""What a peer of a later version may say: features, frames, kinds and metadata that this version does not know."""

from __future__ import annotations

import attrs
import pytest

from hybridrelay.protocol import (
    Feature,
    Kind,
    LocalProtocolError,
    Metadata,
    MetadataEntry,
    Reason,
    SessionConfig,
    SessionCore,
    frames,
)
from hybridrelay.protocol.config import CONTROL_CONFIG, DIALED_CONTROL_CONFIG, MAX_IGNORED_IN_A_ROW
from hybridrelay.protocol.events import StreamAborted, StreamOffered
from hybridrelay.protocol.session import SessionRole
from hybridrelay.protocol.stream import Stream
from hybridrelay.testing.cores import CorePair, CoreSide

from .endings import end_reason

DATAGRAMS = SessionConfig(features=Feature.DATAGRAMS, resume_deadline=30)
ISSUE = SessionConfig(features=Feature.ISSUE, resume_deadline=30)
BOTH = SessionConfig(features=Feature.DATAGRAMS | Feature.ISSUE, resume_deadline=30)
NONE = SessionConfig(resume_deadline=30)

sides = pytest.mark.parametrize("receiver", [0, 1], ids=["to the initiator", "to the acceptor"])


def send(pair: CorePair, to: CoreSide, data: bytes, *, piece: int | None = None) -> None:
    """Deliver bytes that the other side's core would not write."""
    piece = piece or max(1, len(data))
    for position in range(0, len(data), piece):
        to.events += to.core.receive_data(data[position : position + piece], pair.now)


def still_works(pair: CorePair) -> None:
    ours, theirs = pair.open()
    pair.initiator.core.send_data(ours, b"works")
    pair.pump()
    assert pair.acceptor.core.read(theirs, 100, pair.now) == b"works"


# --- features


@pytest.mark.parametrize(
    ("ours", "theirs", "used"),
    [
        (NONE, NONE, Feature(0)),
        (BOTH, NONE, Feature(0)),
        (DATAGRAMS, ISSUE, Feature(0)),
        (DATAGRAMS, BOTH, Feature.DATAGRAMS),
        (BOTH, BOTH, Feature.DATAGRAMS | Feature.ISSUE),
    ],
)
def test_a_feature_is_used_where_both_sides_offer_it(
    ours: SessionConfig, theirs: SessionConfig, used: Feature
) -> None:
    for config, other in ((ours, theirs), (theirs, ours)):
        pair = CorePair.established(config, acceptor_config=other)
        assert pair.initiator.core.features == pair.acceptor.core.features == used
        still_works(pair)


def test_unknown_feature_bits_are_ignored_and_never_used() -> None:
    core = SessionCore(SessionRole.ACCEPTOR, config=BOTH)
    core.channel_opened(0.0)
    core.receive_data(frames.Hello(b"i" * 16, b"s" * 32, 10, features=0xFFFF_FFFD).encode(), 0.0)
    assert core.is_established
    assert core.features == Feature.DATAGRAMS
    hello = next(frames.FrameDecoder().decode_untrusted(b"".join(core.data_to_send(0.0))))
    assert isinstance(hello, frames.Hello)
    assert hello.features == Feature.DATAGRAMS | Feature.ISSUE, "what we offer does not depend on the peer"


def test_the_features_of_the_first_channel_hold_for_the_session() -> None:
    pair = CorePair.established(DATAGRAMS)
    pair.initiator.core.config = BOTH
    pair.acceptor.core.config = BOTH
    pair.connect()
    pair.pump()
    assert pair.initiator.core.features == pair.acceptor.core.features == Feature.DATAGRAMS
    assert pair.initiator.core.open_stream(Kind.DATAGRAMS)
    pair.initiator.core.config = attrs.evolve(NONE)
    pair.connect()
    pair.pump()
    assert pair.acceptor.core.features == Feature.DATAGRAMS


# --- frames of unknown types


@sides
@pytest.mark.parametrize("piece", [None, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize(
    "frame",
    [
        frames.Ignorable(0x80, 0),
        frames.Ignorable(0xFF, 0xFFFF_FFFF, b"\xff" * 1280),
        frames.Ignorable(0xA5, 1, frames.Fin(1).encode()),
    ],
    ids=["empty", "longest", "on an open stream"],
)
def test_frames_of_ignorable_types_change_nothing(receiver: int, piece: int | None, frame: frames.Ignorable) -> None:
    pair = CorePair.established(NONE)
    ours, theirs = pair.open()
    side = pair.sides[receiver]
    pair.advance(1)
    stream = (ours, theirs)[receiver]
    before = (stream.send_window.limit, stream.receive_window.received, side.core.next_deadline())
    send(pair, side, frame.encode() * 3, piece=piece)
    assert not side.take_events()
    assert not side.core.has_output, "nothing is owed for it, so it has no sequence number"
    assert side.core.held_bytes == 0
    assert (stream.send_window.limit, stream.receive_window.received, side.core.next_deadline()) == before
    still_works(pair)


@sides
def test_an_ignored_frame_is_a_sign_of_life(receiver: int) -> None:
    pair = CorePair.established(SessionConfig())
    side = pair.sides[receiver]
    for _ in range(100):  # the peer answers nothing, and sends such a frame every second
        pair.now += 1.0
        side.core.handle_timeout(pair.now)
        send(pair, side, frames.Ignorable(0x90, 0).encode())
        side.core.data_to_send(pair.now)
    assert side.core.ended is None
    pair.now += 16.0
    side.core.handle_timeout(pair.now)
    pair.now += 16.0
    side.core.handle_timeout(pair.now)
    assert end_reason(side.core) is Reason.PEER_SILENT


@sides
def test_ignored_frames_in_a_row_have_a_limit(receiver: int) -> None:
    pair = CorePair.established()
    side = pair.sides[receiver]
    many = frames.Ignorable(0x80, 0).encode() * MAX_IGNORED_IN_A_ROW
    for known in (frames.Ping(bytes(8)), frames.Ack(0), frames.Ping(bytes(8))):
        send(pair, side, many + known.encode())
        side.core.data_to_send(pair.now)
    send(pair, side, many)
    assert side.core.ended is None
    send(pair, side, frames.Ignorable(0xFF, 9).encode())
    assert end_reason(side.core) is Reason.PROTOCOL_ERROR


@pytest.mark.parametrize("config", [CONTROL_CONFIG, DIALED_CONTROL_CONFIG, SessionConfig()])
def test_an_ignorable_frame_that_is_too_long_ends_the_session_by_its_header(config: SessionConfig) -> None:
    pair = CorePair.established(config)
    data = frames.Ignorable(0x80, 0).encode()
    send(pair, pair.acceptor, data[:1] + (1281).to_bytes(3, "big") + data[4:])
    assert end_reason(pair.acceptor.core) is Reason.PROTOCOL_ERROR


@sides
@pytest.mark.parametrize("type_", [0x00, 0x0E, 0x7F])
def test_an_unknown_type_below_them_ends_the_session(receiver: int, type_: int) -> None:
    pair = CorePair.established()
    side = pair.sides[receiver]
    send(pair, side, frames.HEADER.pack(type_ << 24, 0))
    assert end_reason(side.core) is Reason.PROTOCOL_ERROR


# --- kinds


def offered(side: CoreSide) -> list[Stream]:
    return [event.stream for event in side.take_events() if isinstance(event, StreamOffered)]


@pytest.mark.parametrize("kind", [Kind.DATAGRAMS, Kind.ISSUE])
def test_a_kind_that_both_sides_offer_is_opened(kind: Kind) -> None:
    pair = CorePair.established(BOTH)
    ours = pair.initiator.core.open_stream(kind)
    pair.pump()
    (theirs,) = offered(pair.acceptor)
    assert theirs.kind == ours.kind == kind


@pytest.mark.parametrize("config", [NONE, ISSUE])
def test_a_kind_that_is_not_in_use_cannot_be_opened(config: SessionConfig) -> None:
    pair = CorePair.established(config, acceptor_config=BOTH)
    for side in pair.sides:
        with pytest.raises(LocalProtocolError) as caught:
            side.core.open_stream(Kind.DATAGRAMS)
        assert caught.value.reason is Reason.KIND_NOT_OFFERED
    still_works(pair)


def test_before_hello_only_streams_can_be_opened() -> None:
    pair = CorePair(BOTH)
    pair.connect()
    with pytest.raises(LocalProtocolError) as caught:
        pair.initiator.core.open_stream(Kind.DATAGRAMS)
    assert caught.value.reason is Reason.KIND_NOT_OFFERED
    pair.initiator.core.open_stream()


@pytest.mark.parametrize("kind", [Kind.DATAGRAMS, Kind.ISSUE, 3, 255])
def test_a_kind_that_is_not_offered_is_refused_and_harms_nothing(kind: int) -> None:
    pair = CorePair.established(NONE)
    ours = pair.initiator.core.open_stream()
    ours.kind = kind  # a peer that does not keep to the rules, or knows other ones
    pair.initiator.core.send_data(ours, bytes(16_384))
    pair.initiator.core.send_fin(ours)
    pair.pump()
    assert offered(pair.acceptor) == []
    assert StreamAborted(ours) in pair.initiator.take_events()
    assert ours.reason is Reason.KIND_NOT_OFFERED
    pair.advance(1)
    for side in pair.sides:
        assert side.core.streams == {}
        assert side.core.budget.base == 0
    still_works(pair)


# --- metadata


KNOWN = SessionConfig(metadata_types=frozenset({0x4001, 0x4002}))


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [MetadataEntry(0x4001, b"known")],
        [MetadataEntry(0x4002, b"known", critical=True)],
        [MetadataEntry(7, b"unknown"), MetadataEntry(0x4001, b"", critical=True), MetadataEntry(0x7FFF, bytes(512))],
    ],
)
def test_metadata_reaches_the_acceptor_and_unknown_types_do_no_harm(entries: list[MetadataEntry]) -> None:
    pair = CorePair.established(acceptor_config=KNOWN)
    pair.initiator.core.open_stream(metadata=Metadata(entries))
    pair.pump()
    (theirs,) = offered(pair.acceptor)
    assert theirs.metadata == Metadata(entries)
    for entry in entries:
        assert theirs.metadata.get(entry.type) == entry.value
    assert theirs.metadata.get(0x4FFF) is None


def test_a_critical_entry_of_an_unknown_type_is_a_reason_to_refuse_the_stream_alone() -> None:
    pair = CorePair.established(acceptor_config=KNOWN)
    entries = [MetadataEntry(0x4001, b"known"), MetadataEntry(0x4003, b"unknown", critical=True)]
    ours = pair.initiator.core.open_stream(metadata=Metadata(entries))
    pair.pump()
    assert offered(pair.acceptor) == []
    assert ours.reason is Reason.METADATA_NOT_UNDERSTOOD
    still_works(pair)


@pytest.mark.parametrize("type_", [0, 0x8000])
def test_types_that_a_configuration_cannot_name(type_: int) -> None:
    with pytest.raises(ValueError, match="type of metadata"):
        SessionConfig(metadata_types=frozenset({type_}))


@pytest.mark.parametrize(
    "metadata",
    [b"\x40", b"\x40\x01\x00", b"\x40\x01\x00\x05abcd", b"\x40\x01\x02\x01" + bytes(513), bytes(1025)],
    ids=["header", "longer header", "value", "long value", "too much"],
)
@pytest.mark.parametrize("kind", [0, 77])
def test_malformed_metadata_ends_the_session_whatever_the_kind(metadata: bytes, kind: int) -> None:
    pair = CorePair.established()
    payload = bytes(8) + bytes([kind]) + metadata
    send(pair, pair.acceptor, frames.HEADER.pack(frames.Open.TYPE << 24 | len(payload), 1) + payload)
    assert end_reason(pair.acceptor.core) is Reason.PROTOCOL_ERROR
