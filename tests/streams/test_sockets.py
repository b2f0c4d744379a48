"""Socket options are set where the platform has them, and connections are reset."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from hybridrelay.streams import sockets
from hybridrelay.testing import tcp_pair


@pytest.mark.parametrize(
    ("level", "name", "expected"),
    [
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.IPPROTO_TCP, "TCP_NOTSENT_LOWAT", 128 * 1024),
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", sockets.KEEPALIVE_IDLE),
        (socket.IPPROTO_TCP, "TCP_KEEPALIVE", sockets.KEEPALIVE_IDLE),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", sockets.KEEPALIVE_INTERVAL),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", sockets.KEEPALIVE_COUNT),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", sockets.USER_TIMEOUT * 1000),
    ],
)
async def test_the_options_of_a_data_socket_are_set(level: int, name: str, expected: int) -> None:
    if not hasattr(socket, name):
        pytest.skip(f"no {name} here")
    near, far = await tcp_pair()
    async with near, far:
        sockets.tune_stream(near)
        assert bool(near.getsockopt(level, getattr(socket, name))) == bool(expected)
        if expected > 1:
            assert near.getsockopt(level, getattr(socket, name)) == expected


def test_silence_ends_alike_with_and_without_a_user_timeout() -> None:
    given_up = sockets.KEEPALIVE_IDLE + sockets.KEEPALIVE_COUNT * sockets.KEEPALIVE_INTERVAL
    assert given_up == sockets.USER_TIMEOUT >= 60


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="no TCP_USER_TIMEOUT here")
async def test_without_user_timeout() -> None:
    near, far = await tcp_pair()
    async with near, far:
        sockets.tune_socket(near.socket, user_timeout=False)
        assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
        assert near.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_platforms_that_lack_options(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TCP_NOTSENT_LOWAT", "TCP_KEEPIDLE", "TCP_KEEPALIVE", "TCP_USER_TIMEOUT"):
        monkeypatch.delattr(socket, name, raising=False)
    with socket.socket() as sock:
        sockets.tune_socket(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


async def test_other_sockets_and_streams_cause_no_error() -> None:
    for sock in socket.socketpair():
        with sock:
            sockets.tune_socket(sock)
    sock.close()
    sockets.tune_socket(sock)
    one, _ = trio.testing.memory_stream_pair()
    sockets.tune_stream(one)


async def test_to_abort_a_stream_resets_the_connection() -> None:
    near, far = await tcp_pair()
    async with near, far:
        await sockets.abort_stream(near)
        await sockets.abort_stream(near)
        assert near.socket.fileno() == -1
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()


async def test_abort_of_another_stream_closes_it() -> None:
    one, other = trio.testing.memory_stream_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await sockets.abort_stream(one)
    with pytest.raises(trio.ClosedResourceError):
        await one.send_all(b"x")
    assert await other.receive_some() == b""


@pytest.mark.parametrize("before", ["nothing", "data", "end of file", "data and end of file"])
async def test_only_a_reset_ends_the_wait_for_one(autojump_clock: trio.testing.MockClock, before: str) -> None:
    near, far = await tcp_pair()
    was_reset = trio.Event()

    async def wait() -> None:
        await sockets.wait_reset(near)
        was_reset.set()

    async with near, far, trio.open_nursery() as nursery:
        if "data" in before:
            await far.send_all(b"query")
        if "end of file" in before:
            await far.send_eof()
        nursery.start_soon(wait)
        await trio.sleep(60)
        assert not was_reset.is_set()
        await sockets.abort_stream(far)
        with trio.fail_after(1):
            await was_reset.wait()


async def test_waiting_for_a_reset_consumes_nothing() -> None:
    near, far = await tcp_pair()
    async with near, far:
        await far.send_all(b"query")
        with trio.move_on_after(0.01):
            await sockets.wait_reset(near)
        assert await near.receive_some() == b"query"


async def test_all_are_closed_although_this_is_cancelled_or_one_of_them_fails() -> None:
    class Failing(trio.abc.AsyncResource):
        async def aclose(self) -> None:
            closed.append("failing")
            raise OSError

    class Slow(trio.abc.AsyncResource):
        async def aclose(self) -> None:
            closed.append("slow")
            await trio.sleep_forever()

    closed: list[str] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(OSError):
            await sockets.close_forcefully(Slow(), Failing(), Slow())
    assert closed == ["slow", "failing", "slow"]
