"""`TLSStream`: trio's own conformance, strict ends, hostile transports."""

from __future__ import annotations

import contextlib
import ssl
import weakref
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridrelay.errors import TLSHandshakeError
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import Role, create_authority, data_client_context
from hybridrelay.streams import TLSStream, receive_exactly
from hybridrelay.streams.nowait import HELD_FOR_STRANGER, READ_BYTES, SMALL_READ_BYTES, UnitTooLong

from ..leaks import no_garbage_collector
from ..stream_pairs import AUTHORITY, CLIENT, NOW, SERVER
from ..wrapped_streams import WrappedStream

Pair = tuple[TLSStream, TLSStream]


def tls_over(client: trio.abc.Stream, server: trio.abc.Stream) -> Pair:
    return TLSStream(client, CLIENT, server_hostname="orders.test"), TLSStream(server, SERVER, server_side=True)


async def shake(pair: Pair) -> Pair:
    async with trio.open_nursery() as nursery:
        for stream in pair:
            nursery.start_soon(stream.do_handshake)
    return pair


async def memory_pair() -> Pair:
    return await shake(tls_over(*trio.testing.memory_stream_pair()))


async def lockstep_pair() -> Pair:
    return await shake(tls_over(*trio.testing.lockstep_stream_pair()))


class Throttled(WrappedStream):
    """A transport that returns a limited number of bytes at a time, and counts calls."""

    def __init__(self, inner: trio.abc.Stream, max_bytes: int | None = 1) -> None:
        super().__init__(inner)
        self.max_bytes = max_bytes
        self.sends = 0
        self.receives = 0
        #: Called with all that is received; returns what the reader gets to see.
        self.tamper: Callable[[bytes], bytes] = bytes

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sends += 1
        await super().send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        self.receives += 1
        limit = max_bytes if self.max_bytes is None else self.max_bytes
        return self.tamper(bytes(await super().receive_some(limit)))


async def throttled_pair(max_bytes: int | None) -> tuple[Pair, Throttled, Throttled]:
    left, right = (Throttled(raw, max_bytes) for raw in trio.testing.memory_stream_pair())
    return await shake(tls_over(left, right)), left, right


async def test_a_tls_stream_behaves_like_a_stream_of_trio(autojump_clock: trio.testing.MockClock) -> None:
    await trio.testing.check_two_way_stream(memory_pair, lockstep_pair)


async def test_conformance_in_lockstep(autojump_clock: trio.testing.MockClock) -> None:
    await trio.testing.check_two_way_stream(lockstep_pair, lockstep_pair)


async def test_conformance_over_torn_records(autojump_clock: trio.testing.MockClock) -> None:
    async def make() -> Pair:
        return (await throttled_pair(4093))[0]

    await trio.testing.check_two_way_stream(make, None)


async def test_one_byte_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    (client, server), _, _ = await throttled_pair(1)
    await client.send_all(b"first")
    await client.send_all(b"second")
    await client.aclose()
    assert await receive_exactly(server, 5) == b"first"
    assert await receive_exactly(server, 6) == b"second"
    assert await server.receive_some() == b""


async def test_large_data_both_ways_at_once() -> None:
    client, server = await memory_pair()
    data = bytes(range(256)) * 8192  # 2 MiB, several chunks

    async def check(sender: TLSStream, receiver: TLSStream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send_all, memoryview(data))
            assert await receive_exactly(receiver, len(data)) == data

    async with trio.open_nursery() as nursery:
        nursery.start_soon(check, client, server)
        nursery.start_soon(check, server, client)


async def test_one_wakeup_takes_all_records_and_one_write_many() -> None:
    (client, server), left, right = await throttled_pair(None)
    left.sends = right.receives = 0
    await client.send_all(bytes(200_000))
    assert left.sends == 1
    assert len(await server.receive_some()) == 200_000
    assert right.receives == 1


async def test_max_bytes_keeps_the_rest(autojump_clock: trio.testing.MockClock) -> None:
    client, server = await memory_pair()
    await client.send_all(b"0123456789" * 4000)
    await client.aclose()
    first = await server.receive_some(3_000)
    second = await server.receive_some(3)
    third = await server.receive_some(30_000)
    fourth = await server.receive_some()
    assert (len(first), len(second), len(third), len(fourth)) == (3_000, 3, 30_000, 6_997)
    assert first + second + third + fourth == b"0123456789" * 4000
    assert await server.receive_some() == b""
    assert await server.receive_some(1) == b""


async def test_reports_what_was_negotiated() -> None:
    client, server = await memory_pair()
    assert client.version() == server.version() == "TLSv1.3"
    assert client.cipher() == server.cipher() is not None
    certificate = client.getpeercert(binary_form=True)
    assert certificate is not None
    assert isinstance(client.getpeercert(), dict)
    assert isinstance(client.transport_stream, trio.StapledStream)
    assert client.ssl_object.server_side is False


async def test_the_handshake_is_explicit_and_once(autojump_clock: trio.testing.MockClock) -> None:
    client, server = tls_over(*trio.testing.memory_stream_pair())
    for operation in (client.receive_some, lambda: client.send_all(b"x"), client.wait_send_all_might_not_block):
        with trio.testing.assert_checkpoints(), pytest.raises(RuntimeError, match="do_handshake"):
            await operation()
    await shake((client, server))
    await client.do_handshake()
    await client.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await client.do_handshake()


async def test_end_without_close_notify_is_never_an_end_of_file() -> None:
    client, server = await memory_pair()
    await client.send_all(b"paid 100")
    await client.transport_stream.aclose()
    assert await server.receive_some() == b"paid 100"
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match="cut off"):
            await server.receive_some()
    await server.aclose()


async def test_end_within_a_record_is_never_an_end_of_file() -> None:
    (client, server), _, right = await throttled_pair(None)
    right.tamper = lambda data: data[:-1]
    await client.send_all(b"paid 100")
    await client.transport_stream.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some()


async def test_altered_records_break_the_stream_behind_intact_ones() -> None:
    (client, server), _, right = await throttled_pair(None)
    await client.send_all(b"intact")
    await client.send_all(b"altered")
    right.tamper = lambda data: data[:-1] + bytes([data[-1] ^ 1])
    assert await server.receive_some() == b"intact"
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError) as caught:
            await server.receive_some()
        assert isinstance(caught.value.__cause__, ssl.SSLError)
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"x")
    await server.aclose()
    with pytest.raises(trio.BrokenResourceError) as caught:  # the alert left with the close
        await client.receive_some()
    assert isinstance(caught.value.__cause__, ssl.SSLError)


async def cancel_in_the_middle(sending: Callable[[], Awaitable[None]]) -> None:
    """Cancel a send that has begun and whose bytes are not read."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sending)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_a_cancelled_send_breaks_sending_only() -> None:
    client, server = await lockstep_pair()
    await cancel_in_the_middle(lambda: client.send_all(b"x" * 100_000))
    operations: list[Callable[[], Awaitable[None]]] = [
        lambda: client.send_all(b"y"),
        client.wait_send_all_might_not_block,
    ]
    for operation in operations:
        with trio.testing.assert_checkpoints(), pytest.raises(trio.BrokenResourceError):
            await operation()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.send_all, b"still here")
        assert await client.receive_some() == b"still here"


async def test_a_send_that_is_cancelled_before_it_begins_breaks_nothing() -> None:
    client, server = await memory_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.send_all(b"x" * 100_000)
    assert scope.cancelled_caught
    await client.send_all(b"y")
    assert await server.receive_some() == b"y"


async def test_a_cancelled_receive_loses_nothing() -> None:
    client, server = await memory_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await server.receive_some()
    await client.send_all(b"x")
    with trio.CancelScope() as scope:
        scope.cancel()
        await server.receive_some()
    assert await server.receive_some() == b"x"


async def test_a_cancelled_handshake_leaves_only_close() -> None:
    client, _ = tls_over(*trio.testing.memory_stream_pair())
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    for operation in (client.do_handshake, client.receive_some, lambda: client.send_all(b"x")):
        with pytest.raises(trio.BrokenResourceError):
            await operation()
    await client.aclose()


async def test_closing_is_not_held_up_by_a_clogged_transport(autojump_clock: trio.testing.MockClock) -> None:
    client, _ = await lockstep_pair()
    began = trio.current_time()
    await client.aclose()
    assert trio.current_time() - began == pytest.approx(1)


async def test_the_side_that_closes_first_waits_for_the_other(autojump_clock: trio.testing.MockClock) -> None:
    """Otherwise the other side's close_notify would reach a closed socket, and be answered with a reset."""
    (client, server), left, _ = await throttled_pair(None)
    closed = trio.Event()

    async def close() -> None:
        await client.aclose()
        closed.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close)
        assert await server.receive_some() == b""
        await trio.testing.wait_all_tasks_blocked()
        assert not closed.is_set()
        began = trio.current_time()
        await server.aclose()  # it waits for nothing: the client has ended
        await closed.wait()
        assert trio.current_time() == began
    with pytest.raises(trio.ClosedResourceError):
        await left.receive_some()


async def test_the_side_that_closes_first_waits_for_a_second_at_most(autojump_clock: trio.testing.MockClock) -> None:
    client, server = await memory_pair()
    began = trio.current_time()
    await client.aclose()
    assert trio.current_time() - began == pytest.approx(1)
    assert await server.receive_some() == b""


async def test_closing_wakes_blocked_tasks() -> None:
    client, _ = await lockstep_pair()

    async def blocked(operation: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await operation()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(blocked, client.receive_some)
        nursery.start_soon(blocked, lambda: client.send_all(bytes(1 << 20)))
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()


@pytest.mark.parametrize("how", ["gracefully", "forcefully", "cut off", "altered", "not shaken", "refused"])
async def test_a_closed_stream_keeps_no_memory_of_openssl(how: str) -> None:
    """Although the stream is still referred to, and the garbage collector does not run."""
    left, right = trio.testing.memory_stream_pair()
    client, server = tls_over(left, right)
    with no_garbage_collector():
        match how:
            case "not shaken":
                pass
            case "refused":
                await right.send_all(b"no record")
                with pytest.raises(TLSHandshakeError):
                    await client.do_handshake()
            case _:
                await shake((client, server))
        freed = weakref.ref(client.ssl_object)
        if how in {"cut off", "altered"}:
            if how == "altered":
                await right.send_all(bytes(100))
            right.send_stream.close()
            with pytest.raises(trio.BrokenResourceError):
                await client.receive_some()
            assert client.has_more  # the error
        if how == "gracefully":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.aclose)
                await client.aclose()
        else:
            await trio.aclose_forcefully(client)
        assert freed() is None
    for use in (client.version, client.cipher, client.getpeercert, lambda: client.ssl_object):
        with pytest.raises(trio.ClosedResourceError):
            use()
    with pytest.raises(trio.ClosedResourceError):
        await client.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await client.send_all(b"x")
    await trio.aclose_forcefully(server)


async def test_closing_during_the_handshake() -> None:
    client, _ = tls_over(*trio.testing.memory_stream_pair())

    async def blocked() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await client.do_handshake()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(blocked)
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("arrived", range(1, 8))
async def test_closing_when_something_has_arrived_in_the_handshake(side: str, arrived: int) -> None:
    """The task that does the handshake runs again only after the stream was closed."""
    pair = tls_over(*trio.testing.memory_stream_pair())
    closing, other = pair if side == "client" else reversed(pair)
    result = ""

    async def blocked() -> None:
        nonlocal result
        try:
            await closing.do_handshake()
            await closing.receive_some()
        except trio.ClosedResourceError:
            result = "closed"

    async def answer() -> None:
        with contextlib.suppress(TLSHandshakeError, trio.BrokenResourceError):
            await other.do_handshake()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(blocked)
        nursery.start_soon(answer)
        for _ in range(arrived):
            await trio.lowlevel.checkpoint()
        await trio.aclose_forcefully(closing)
        await trio.testing.wait_all_tasks_blocked()
        assert result == "closed"
        await trio.aclose_forcefully(other)


async def test_reading_never_writes_and_owes_no_more_than_a_bound() -> None:
    (client, server), _, right = await throttled_pair(None)
    right.sends = 0

    class Greedy:
        """In place of OpenSSL's output: as if OpenSSL wanted to answer a flood of key updates."""

        pending = 1 << 20

    server._receiver._outgoing = Greedy()  # type: ignore[assignment]
    await client.send_all(b"x")
    assert await server.receive_some() == b"x"
    with pytest.raises(trio.BrokenResourceError, match="requires answers"):
        await server.receive_some()
    assert right.sends == 0


async def test_handshake_with_someone_who_hangs_up() -> None:
    left, right = trio.testing.memory_stream_pair()
    client, _ = tls_over(left, right)
    await right.aclose()
    with pytest.raises(TLSHandshakeError) as caught:
        await client.do_handshake()
    assert caught.value.reason is Reason.TLS_FAILED
    await client.aclose()

    left, right = trio.testing.memory_stream_pair()
    _, server = tls_over(left, right)
    await left.send_eof()
    with pytest.raises(TLSHandshakeError, match="ended"):
        await server.do_handshake()


async def test_a_server_that_rejects_lingers_a_second_at_most(autojump_clock: trio.testing.MockClock) -> None:
    other = create_authority("orders", now=NOW)
    stranger = data_client_context(other.issue(Role.APPLICATION, "b", now=NOW), AUTHORITY.certificate)
    left, right = trio.testing.memory_stream_pair()
    client, server = TLSStream(left, stranger), TLSStream(right, SERVER, server_side=True)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        with pytest.raises(TLSHandshakeError):
            await server.do_handshake()
    assert trio.current_time() - began == pytest.approx(1)
    await client.send_all(b"unaware")
    with pytest.raises(trio.BrokenResourceError) as caught:
        await client.receive_some()
    assert isinstance(caught.value.__cause__, ssl.SSLError)


@given(data=st.binary(max_size=300), server_side=st.booleans())
@settings(deadline=None, max_examples=60)
async def test_hostile_bytes_in_the_handshake(data: bytes, server_side: bool) -> None:
    left, right = trio.testing.memory_stream_pair()
    stream = tls_over(left, right)[1] if server_side else tls_over(right, left)[0]
    await left.send_all(data)
    await left.send_eof()
    with pytest.raises(TLSHandshakeError):
        await stream.do_handshake()
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    await stream.aclose()


@given(data=st.binary(min_size=1, max_size=300))
@settings(deadline=None, max_examples=60)
async def test_hostile_bytes_after_the_handshake(data: bytes) -> None:
    client, server = await memory_pair()
    await client.transport_stream.send_all(data)
    await client.transport_stream.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some()
    await server.aclose()


@given(position=st.integers(0, 4000), flip=st.integers(1, 255))
@settings(deadline=None, max_examples=60)
async def test_an_altered_handshake_fails(position: int, flip: int) -> None:
    left, right = (Throttled(raw, None) for raw in trio.testing.memory_stream_pair())
    seen = 0

    def tamper(data: bytes) -> bytes:
        nonlocal seen
        altered = bytearray(data)
        if seen <= position < seen + len(data):
            altered[position - seen] ^= flip
        seen += len(data)
        return bytes(altered)

    left.tamper = tamper
    client, server = tls_over(left, right)

    async def side(stream: TLSStream) -> None:
        try:
            await stream.do_handshake()
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
        except (TLSHandshakeError, trio.BrokenResourceError):
            pass
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(side, client)
        nursery.start_soon(side, server)
        # An altered length makes both sides wait for each other; deadlines are the caller's.
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_sends_after_the_peer_closed_break(autojump_clock: trio.testing.MockClock) -> None:
    client, server = await memory_pair()
    await server.aclose()
    assert await client.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"x")
    await client.aclose()
    await client.aclose()


async def test_a_server_certificate_that_is_not_ours_is_reported(autojump_clock: trio.testing.MockClock) -> None:
    strict = ssl.create_default_context()
    left, right = trio.testing.memory_stream_pair()
    client, server = (
        TLSStream(left, strict, server_hostname="orders.test"),
        TLSStream(right, SERVER, server_side=True),
    )

    async def fails(stream: TLSStream) -> None:
        with pytest.raises(TLSHandshakeError) as caught:
            await stream.do_handshake()
        assert isinstance(caught.value.__cause__, ssl.SSLError)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails, client)
        nursery.start_soon(fails, server)


async def _stranger() -> Pair:
    """A client, and a server that has not authenticated it yet."""

    async def at_once() -> None:
        pass

    ours, theirs = trio.testing.memory_stream_pair()
    client = TLSStream(ours, CLIENT, server_hostname="orders.test")
    return await shake((client, TLSStream(theirs, SERVER, server_side=True, before_answer=at_once)))


async def _receive(stream: TLSStream, size: int, max_bytes: int = SMALL_READ_BYTES) -> None:
    while size > 0:
        size -= len(await stream.receive_some(max_bytes))


async def test_a_stranger_sends_short_records_only() -> None:
    client, server = await _stranger()
    await client.send_all(bytes(HELD_FOR_STRANGER))
    await _receive(server, HELD_FOR_STRANGER)
    await client.send_all(bytes(2 * HELD_FOR_STRANGER))
    with pytest.raises(UnitTooLong, match="longer TLS record"):
        await server.receive_some(SMALL_READ_BYTES)
    await server.send_all(b"too long")
    assert await client.receive_some() == b"too long"


async def test_records_are_as_long_as_the_limit_that_is_set() -> None:
    client, server = await _stranger()
    server.limit_held(4000)
    await client.send_all(bytes(4000))
    await _receive(server, 4000)
    await client.send_all(bytes(5000))
    with pytest.raises(trio.BrokenResourceError, match="longer TLS record"):
        await server.receive_some(SMALL_READ_BYTES)


@pytest.mark.parametrize("lifted", [True, False])
async def test_records_of_any_length_pass_once_the_limit_is_lifted_or_much_is_asked_for(lifted: bool) -> None:
    client, server = await _stranger()
    if lifted:
        server.limit_held(None)
    await client.send_all(bytes(2 * HELD_FOR_STRANGER))
    await _receive(server, 2 * HELD_FOR_STRANGER, SMALL_READ_BYTES if lifted else READ_BYTES)


async def test_the_layers_of_a_stranger_share_what_may_be_held() -> None:
    """Both layers together hold no more than one of them may hold alone."""
    outer_client, outer_server = await _stranger()

    async def at_once() -> None:
        pass

    client = TLSStream(outer_client, CLIENT, server_hostname="orders.test")
    server = TLSStream(outer_server, SERVER, server_side=True, before_answer=at_once)
    await shake((client, server))
    record = client._encrypt(memoryview(bytes(HELD_FOR_STRANGER)))
    await outer_client.send_all(record[:6000])
    with trio.move_on_after(0.05):
        await server.receive_some(SMALL_READ_BYTES)
    await outer_client.send_all(bytes(4000))
    with pytest.raises(trio.BrokenResourceError, match="longer TLS record"):
        await server.receive_some(SMALL_READ_BYTES)
    client.limit_held(None)
    await trio.aclose_forcefully(client)


async def test_lifting_the_limit_reaches_the_layers_below() -> None:
    outer_client, outer_server = await _stranger()
    server = TLSStream(outer_server, SERVER, server_side=True)
    server.limit_held(None)
    await outer_client.send_all(bytes(2 * HELD_FOR_STRANGER))
    await _receive(outer_server, 2 * HELD_FOR_STRANGER)
