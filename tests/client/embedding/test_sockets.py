"""Sockets of `open_socket`: what the target does is what the application sees, and the other way round."""

from __future__ import annotations

import enum
import math
import os
import socket
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybridrelay import ClientConfig, ConnectionStringError, RelayUnreachable, StreamRefused, open_socket
from hybridrelay.abc import Dialer
from hybridrelay.client.embedding import background, shared
from hybridrelay.connectivity.dialing import dial_udp_directly
from hybridrelay.protocol import Reason
from hybridrelay.security import ConnectionString, HostPort, Role
from hybridrelay.streams import receive_exactly
from hybridrelay.streams.sockets import abort_stream
from hybridrelay.testing import tcp_pair

from ...receiving import receive_all
from ...system.deployment import deploy
from ...waiting import async_wait_until
from .accepted import Targets
from .conftest import Site


async def open_in_thread(string: ConnectionString | ClientConfig, **options: Any) -> trio.SocketStream:
    """Open a socket as a synchronous program does, and use it as a stream."""
    sock = await trio.to_thread.run_sync(partial(open_socket, string, **options))
    assert sock.getblocking()
    assert sock.gettimeout() is None
    sock.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


async def test_it_is_a_half_closeable_stream(site: Site) -> None:
    """All of Trio's own checks of such a stream, between the application's socket and the target's."""
    targets = Targets()
    string = await site.publish(targets.handle)

    async def pair() -> tuple[trio.SocketStream, trio.SocketStream]:
        application = await open_in_thread(string)
        return application, await targets.accept()

    await trio.testing.check_half_closeable_stream(pair, None)


async def test_it_is_an_ordinary_blocking_socket(site: Site) -> None:
    string = await site.publish()
    data = os.urandom(3_000_000)

    def talk() -> bytes:
        with open_socket(string.format()) as sock:
            assert type(sock) is socket.socket
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            assert len(sock.getpeername()) == 2

            def send() -> None:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)

            sender = threading.Thread(target=send)
            sender.start()
            received = b"".join(iter(partial(sock.recv, 65536), b""))
            sender.join()
            return received

    assert await trio.to_thread.run_sync(talk) == data


async def test_a_reset_of_the_target_is_not_an_end_of_file(site: Site) -> None:
    async def target(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"half of the ans")
        await abort_stream(stream)

    string = await site.publish(target)

    def talk() -> bytes:
        received = b""
        with open_socket(string) as sock:
            sock.sendall(b"question")
            with pytest.raises(ConnectionResetError):  # noqa: PT012 - the last call raises
                while piece := sock.recv(100):
                    received += piece
        return received

    assert b"half of the answer".startswith(await trio.to_thread.run_sync(talk))


async def test_a_connector_that_dies_is_not_an_end_of_file(site: Site) -> None:
    published = site.deployment.publish("db")
    targets = Targets()
    listener = await site.deployment.nursery.start(
        partial(trio.serve_tcp, targets.handle, 0, host="127.0.0.1"),
    )
    target = HostPort("127.0.0.1", listener[0].socket.getsockname()[1])
    connector = await site.deployment.connector(site.deployment.string(published, Role.CONNECTOR, target))
    string = site.deployment.string(published, Role.APPLICATION)
    async with await open_in_thread(ClientConfig(string, resume_deadline=0)) as application:
        await (await targets.accept()).send_all(b"x")
        assert await application.receive_some() == b"x"
        connector.cancel()
        with pytest.raises(trio.BrokenResourceError):
            await application.receive_some()


async def test_what_was_sent_before_closing_arrives(site: Site) -> None:
    targets = Targets()
    string = await site.publish(targets.handle)
    data = os.urandom(5_000_000)

    def send() -> None:
        with open_socket(string) as sock:
            sock.sendall(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, send)
        assert await receive_all(await targets.accept()) == data


async def test_a_target_that_does_not_read_stops_the_sender(site: Site) -> None:
    targets = Targets()
    string = await site.publish(targets.handle)
    application = await open_in_thread(string)
    target = await targets.accept()
    sent = 0
    async with application:
        # More than all windows and buffers on the way: 16 MiB of window, and those of three TCP connections.
        with trio.move_on_after(1) as scope:
            while sent < 1 << 28:
                await application.send_all(bytes(1 << 16))
                sent += 1 << 16
        assert scope.cancelled_caught, "256 MiB were accepted though nobody reads"
        received = 0
        while received < sent:
            received += len(await target.receive_some())


class End(enum.Enum):
    """How a side ends, after it has sent what it has to send."""

    EOF_THEN_READ = enum.auto()
    CLOSE_AFTER_READING = enum.auto()
    RESET = enum.auto()


@attrs.frozen
class Side:
    """What one side of a connection does."""

    sizes: list[int]
    end: End


SIDES = st.builds(Side, st.lists(st.sampled_from([1, 1000, 70_000, 300_000]), max_size=3), st.sampled_from(End))


async def play(stream: trio.SocketStream, side: Side) -> tuple[int, bool]:
    """Send and receive at the same time. Returns how many bytes have arrived, and whether they ended in order."""
    received, in_order, can_send = 0, False, True

    async def receive() -> None:
        nonlocal received, in_order
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in stream:
                received += len(data)
            in_order = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        try:
            for size in side.sizes:
                await stream.send_all(bytes(size))
            if side.end is End.EOF_THEN_READ:
                await stream.send_eof()
        except trio.BrokenResourceError:
            can_send = False  # the system reports a reset once: here, and then not when receiving
        if side.end is End.RESET:
            nursery.cancel_scope.cancel()
    if side.end is End.RESET:
        await abort_stream(stream)
    await stream.aclose()
    return received, in_order and can_send


async def test_both_sides_see_what_they_see_without_a_relay(site: Site) -> None:
    """The same programs, once over the relay, and once over a plain TCP connection."""
    targets = Targets()
    string = await site.publish(targets.handle)
    runner = trio.lowlevel.current_trio_token()

    async def compare(ours: Side, theirs: Side) -> None:
        if ours.end is theirs.end is End.CLOSE_AFTER_READING:
            return  # each would wait for the other
        seen = []
        for pair in (await tcp_pair(), (await open_in_thread(string), await targets.accept())):
            results: list[tuple[int, bool]] = [(0, False)] * 2

            async def run(
                index: int,
                side: Side,
                pair: tuple[trio.SocketStream, ...] = pair,
                results: list[tuple[int, bool]] = results,
            ) -> None:
                results[index] = await play(pair[index], side)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(run, 0, ours)
                nursery.start_soon(run, 1, theirs)
            seen.append(results)
        plain, relayed = seen
        if End.RESET not in (ours.end, theirs.end):
            assert relayed == plain
        for sender, (_, was_in_order), (received, is_in_order) in zip((theirs, ours), plain, relayed, strict=True):
            assert not (sender.end is End.RESET and is_in_order), "a reset is not an end of file"
            assert is_in_order <= (received == sum(sender.sizes)), "what has ended in order is complete"
            assert not (is_in_order and not was_in_order)

    @settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
    @given(SIDES, SIDES)
    def check(ours: Side, theirs: Side) -> None:
        trio.from_thread.run(compare, ours, theirs, trio_token=runner)

    await trio.to_thread.run_sync(check)


async def test_what_cannot_be_reached_is_said_by_the_errors_of_the_library(site: Site) -> None:
    string = await site.publish()
    nobody = site.deployment.publish("nobody")
    await site.deployment.connector(site.deployment.string(nobody, Role.CONNECTOR, HostPort("127.0.0.1", 1)))

    with pytest.raises(StreamRefused) as refused:
        await open_in_thread(site.deployment.string(nobody, Role.APPLICATION))
    assert refused.value.reason is Reason.TARGET_REFUSED

    ports = dict.fromkeys(site.deployment.ports, 1)
    away = site.deployment.string(nobody, Role.APPLICATION, ports=ports)
    with pytest.raises(RelayUnreachable):
        await open_in_thread(ClientConfig(away, open_patience=0))

    with pytest.raises(ConnectionStringError) as wrong:
        await open_in_thread("application.txt")  # type: ignore[arg-type]
    assert "load_connection_string" in (wrong.value.remedy or "")
    for seconds in (-1, math.nan):
        with pytest.raises(ValueError, match="timeout"):
            await open_in_thread(string, timeout=seconds)


async def test_time_that_passes_is_an_error_with_a_remedy(site: Site) -> None:
    """A dialer that never answers."""

    async def dial(_host: str, _port: int) -> trio.SocketStream:
        await trio.sleep_forever()
        raise AssertionError

    string = await site.publish()
    with pytest.raises(StreamRefused, match=r"within 0\.1 s") as late:
        await open_in_thread(ClientConfig(string, dialer=Dialer(dial, dial_udp_directly)), timeout=0.1)
    assert late.value.reason is Reason.PEER_SILENT
    assert "hybridrelay probe" in (late.value.remedy or "")


async def test_many_threads_share_one_session(site: Site) -> None:
    string = await site.publish()

    def talk(number: int) -> None:
        data = f"{number}".encode() * 10_000
        with open_socket(string) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            assert b"".join(iter(partial(sock.recv, 65536), b"")) == data

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(trio.to_thread.run_sync, talk, number)

    async def sessions() -> list[int]:
        return [
            len(one._connections._client._sessions._live)
            for one in shared._CLIENTS.get()
            if one._connections is not None
        ]

    def ask() -> list[int]:
        return background.call_and_wait(lambda _thread: sessions())

    assert await trio.to_thread.run_sync(ask) == [1]


async def test_a_relay_that_is_killed_and_returns_is_only_a_pause(
    site: Site, nursery: trio.Nursery, tmp_path: Path
) -> None:
    string = await site.publish()
    ports = {name: port for name, port in site.deployment.ports.items() if port is not None}
    async with await open_in_thread(string) as application:
        await application.send_all(b"before")
        assert await receive_exactly(application, 6) == b"before"
        await site.deployment.kill_relay()
        await application.send_all(b"meanwhile")
        await deploy(nursery, tmp_path / "state", ports=ports)
        assert await receive_exactly(application, 9) == b"meanwhile"


async def test_clients_that_are_not_used_make_room(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "MAX_CLIENTS", 2)
    string = await site.publish()
    configs = [ClientConfig(string, open_patience=10.0 + number) for number in range(4)]

    async def open_clients() -> dict[float, bool]:
        return {one.config.open_patience: one.is_used for one in shared._CLIENTS.get()}

    def ask() -> dict[float, bool]:
        return background.call_and_wait(lambda _thread: open_clients())

    async def only_the_first_is_used() -> bool:
        used = await trio.to_thread.run_sync(ask)
        return [patience for patience, is_used in used.items() if is_used] == [10.0]

    async with await open_in_thread(configs[0]) as first:
        for config in configs[1:]:
            async with await open_in_thread(config) as other:
                await other.send_all(b"x")
                assert await other.receive_some() == b"x"
            await async_wait_until(only_the_first_is_used, seconds=30, what="the other socket was closed")
        assert list(await trio.to_thread.run_sync(ask)) == [10.0, 13.0]
        await first.send_all(b"x")
        assert await first.receive_some() == b"x"


async def test_nothing_is_left_of_sockets_that_were_closed(site: Site) -> None:
    string = await site.publish()

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async with await open_in_thread(string) as first:
        await first.send_all(b"x")
    before = descriptors()
    for _ in range(20):
        async with await open_in_thread(string) as sock:
            await sock.send_all(b"x")
            assert await sock.receive_some() == b"x"

    async def is_clean() -> bool:
        return descriptors() <= before

    await async_wait_until(is_clean, seconds=10, what="all sockets are closed")
