"""Arbitrary bytes in arbitrary pieces are frames or raise `RemoteProtocolError`, and nothing else happens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.protocol import (
    Metadata,
    MetadataEntry,
    Reason,
    RemoteProtocolError,
    SessionConfig,
    SessionCore,
    frames,
)
from hybridrelay.protocol.events import SessionOutcome, StreamOffered
from hybridrelay.protocol.preamble import (
    Preamble,
    Purpose,
    decode_preamble_untrusted,
    decode_status_untrusted,
    encode_status,
)
from hybridrelay.protocol.session import SessionRole, State
from hybridrelay.testing.cores import CorePair

stream_ids = st.one_of(st.integers(1, 9), st.integers(1, 0xFFFFFFFF))
limits = st.one_of(st.sampled_from([0, 16_384, 1 << 20]), st.integers(0, frames.MAX_LIMIT))
counts = st.one_of(st.integers(0, 20), st.integers(0, (1 << 64) - 1))
reasons = st.sampled_from(Reason)
texts = st.text(max_size=40)
metadata = st.lists(
    st.builds(MetadataEntry, st.integers(1, 0x7FFF), st.binary(max_size=20), st.booleans()),
    max_size=4,
    unique_by=lambda entry: entry.type,
).map(Metadata)
any_frame = st.one_of(
    st.builds(
        frames.Hello,
        st.binary(min_size=16, max_size=16),
        st.binary(min_size=32, max_size=32),
        st.integers(0, 9),
        counts,
        counts,
        st.integers(0, 3),
        st.booleans(),
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(0, (1 << 32) - 1),
    ),
    st.builds(frames.Open, stream_ids, limits, st.integers(0, 3), metadata),
    st.builds(frames.Ignorable, st.integers(0x80, 0xFF), st.integers(0, 9), st.binary(max_size=20)),
    st.builds(frames.Opened, stream_ids, limits),
    st.builds(frames.Refused, stream_ids, reasons, texts),
    st.builds(frames.Data, stream_ids, st.binary(min_size=1, max_size=2000)),
    st.builds(frames.Fin, stream_ids),
    st.builds(frames.Reset, stream_ids, reasons, texts),
    st.builds(frames.Stop, stream_ids, reasons, texts),
    st.builds(frames.Window, stream_ids, limits),
    st.builds(frames.Ack, counts),
    st.builds(frames.Ping, st.binary(min_size=8, max_size=8)),
    st.builds(frames.Pong, st.binary(min_size=8, max_size=8)),
    st.builds(frames.GoAway, reasons, st.integers(0, 20), st.booleans(), texts),
)


@st.composite
def traffic(draw: st.DrawFn) -> bytes:
    """Frames in random order, as bytes, some of which were changed."""
    data = bytearray(b"".join(frame.encode() for frame in draw(st.lists(any_frame, max_size=12))))
    for _ in range(draw(st.integers(0, 3))):
        position = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 30))
        data[position : position + length] = draw(st.binary(max_size=30))
    return bytes(data)


@st.composite
def chunked(draw: st.DrawFn) -> list[bytes]:
    data = draw(traffic())
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@given(chunked())
def test_the_decoder_raises_one_exception_only(chunks: list[bytes]) -> None:
    decoder = frames.FrameDecoder()
    decoded: list[frames.Frame] = []
    try:
        for chunk in chunks:
            decoded += decoder.decode_untrusted(chunk)
    except RemoteProtocolError:
        pass
    for frame in decoded:
        frame.encode()


@given(chunked())
def test_the_cut_of_the_stream_makes_no_difference(chunks: list[bytes]) -> None:
    def run(pieces: list[bytes]) -> tuple[list[frames.Frame], str]:
        decoder, decoded = frames.FrameDecoder(), []
        try:
            for piece in pieces:
                for frame in decoder.decode_untrusted(piece):
                    decoded.append(frame)  # noqa: PERF402 (what came before an error counts)
        except RemoteProtocolError as exc:
            return decoded, str(exc)
        return decoded, ""

    assert run(chunks) == run([b"".join(chunks)])


def feed(core: SessionCore, chunks: list[bytes]) -> None:
    """The session goes on, or ends with one event, which is the last; then all memory has been returned."""
    happened = []
    for chunk in chunks:
        events = core.receive_data(chunk, 0.0)
        happened += events
        for event in events:
            if isinstance(event, StreamOffered) and core.ended is None and not event.stream.is_aborted:
                core.accept(event.stream, 0.0)
        core.data_to_send(0.0)
    ends = [event for event in happened if isinstance(event, SessionOutcome)]
    if core.ended is None:
        assert not ends
        assert core.state in (State.GREETING, State.ESTABLISHED)
        core.close()
    else:
        assert ends == [happened[-1]] == [core.ended]
    core.data_to_send(0.0)
    assert core.data_to_send(0.0) == []
    assert core.streams == {}
    assert (core.budget.base, core.budget.elastic) == (0, 0)


@given(chunked(), st.sampled_from(SessionRole))
def test_a_core_that_waits_for_hello_never_raises(chunks: list[bytes], role: SessionRole) -> None:
    core = SessionCore(role)
    core.channel_opened(0.0)
    feed(core, chunks)


@given(chunked(), st.sampled_from([0, 1]), st.booleans())
def test_an_established_core_never_raises(chunks: list[bytes], victim: int, resumed: bool) -> None:
    pair = CorePair.established(SessionConfig(max_streams=4, resume_deadline=9))
    for side in (*pair.sides, *pair.sides):
        pair.open(side)
    pair.initiator.core.open_stream()
    pair.pump()
    if resumed:
        pair.connect()
        pair.pump()
    feed(pair.sides[victim].core, chunks)


# --- preamble and status


@given(st.one_of(st.binary(max_size=50), st.binary(min_size=40, max_size=40)), st.integers(0, 8))
def test_a_preamble_is_one_or_is_refused(data: bytes, genuine: int) -> None:
    data = Preamble(Purpose.DATA, b"t" * 32).encode()[:genuine] + data[genuine:]
    try:
        preamble = decode_preamble_untrusted(data)
    except RemoteProtocolError:
        return
    assert len(data) == 40
    assert preamble.encode()[:6] == data[:6]
    assert preamble.credential == data[8:]
    assert preamble.by_ca == bool(data[7] & 1)


@given(st.one_of(st.binary(max_size=12), st.binary(min_size=8, max_size=8)), st.integers(0, 8))
def test_a_status_is_one_or_is_refused(data: bytes, genuine: int) -> None:
    data = encode_status(Reason.BUSY)[:genuine] + data[genuine:]
    try:
        reason = decode_status_untrusted(data)
    except RemoteProtocolError:
        return
    assert reason is Reason.from_wire(int.from_bytes(data[6:], "big"))
