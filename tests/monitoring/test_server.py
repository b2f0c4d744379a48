"""Where the status is served, who may read it, and how serving it ends."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from hybridrelay.errors import ConfigurationError
from hybridrelay.events import Event, EventStream, StatusListening
from hybridrelay.monitoring import StatusAddress, serve_status
from hybridrelay.streams.unix_sockets import connect_unix_socket, short_path

from ..credentials import pretend_user
from ..full_queue import full_queue
from ..http.serving import Client
from ..waiting import patience
from .snapshots import FakeSource, endpoint, stream

unix = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
LOOPBACK = StatusAddress(None, "127.0.0.1", 0)


async def start(nursery: trio.Nursery, address: StatusAddress, source: FakeSource | None = None) -> str:
    """Serve the status; where it listens."""
    serve = partial(serve_status, address, source or FakeSource(), events=EventStream())
    return str(await nursery.start(serve))


async def connect(address: str) -> trio.SocketStream:
    if address.startswith("/"):
        return await connect_unix_socket(Path(address))
    host, _, port = address.rpartition(":")
    return await trio.open_tcp_stream(host.strip("[]"), int(port))


@unix
async def test_a_socket_for_its_owner_that_leaves_nothing_behind(tmp_path: Path) -> None:
    path, events = tmp_path / "status.sock", list[Event]()
    async with trio.open_nursery() as serving:
        serve = partial(serve_status, StatusAddress(path), FakeSource(), events=EventStream(events.append))
        assert await serving.start(serve) == str(path)
        assert events == [StatusListening(address=str(path))]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with await connect(str(path)) as stream:
            assert (await Client(stream).request("GET", "/livez")).status == 200
        serving.cancel_scope.cancel()
    assert not path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked for the credentials of the client")
@pytest.mark.parametrize(("user", "is_served"), [(os.geteuid(), True), (0, True), (os.geteuid() + 1, False)])
async def test_another_user_is_refused_even_if_the_mode_of_the_socket_lets_it_connect(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, user: int, is_served: bool
) -> None:
    address = await start(nursery, StatusAddress(tmp_path / "status.sock"))
    stream = await connect(address)
    pretend_user(monkeypatch, type(stream.socket), user)
    answer = b""
    with trio.fail_after(patience(20)):
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = await stream.receive_some()
    assert answer.startswith(b"HTTP/1.1 200") == is_served
    nursery.cancel_scope.cancel()


@unix
async def test_a_socket_of_another_program_is_not_replaced_and_one_that_was_left_behind_is(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    path = tmp_path / "status.sock"
    with socket.socket(socket.AF_UNIX) as left_behind, short_path(path) as name:
        left_behind.bind(name)
    address = await start(nursery, StatusAddress(path))
    with pytest.raises(ConfigurationError, match="another program serves its status"):
        await start(nursery, StatusAddress(path))
    async with await connect(address) as stream:
        assert (await Client(stream).request("GET", "/livez")).status == 200
    nursery.cancel_scope.cancel()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems answer in other ways")
async def test_a_socket_of_another_program_that_hangs_is_not_waited_for(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    with full_queue(tmp_path / "status.sock"), trio.fail_after(60):
        with pytest.raises(ConfigurationError, match="another program serves its status"):
            await start(nursery, StatusAddress(tmp_path / "status.sock"))


@unix
@pytest.mark.parametrize("what", ["a file", "no directory"])
async def test_a_path_that_cannot_be_used(tmp_path: Path, nursery: trio.Nursery, what: str) -> None:
    path = tmp_path / "status.sock" if what == "a file" else tmp_path / "nowhere" / "status.sock"
    if what == "a file":
        path.write_text("precious")
    with pytest.raises(ConfigurationError, match="cannot be served") as caught:
        await start(nursery, StatusAddress(path))
    assert caught.value.remedy
    if what == "a file":
        assert path.read_text() == "precious"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "relay.example.com"])
def test_others_than_this_machine_are_not_served(host: str) -> None:
    with pytest.raises(ConfigurationError, match="not a loopback address") as caught:
        StatusAddress.of((host, 9351))
    assert "ssh -L" in (caught.value.remedy or "")


async def test_a_name_that_leads_elsewhere_is_refused(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    async def elsewhere(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("0.0.0.0", 0))]

    monkeypatch.setattr(trio.socket, "getaddrinfo", elsewhere)
    with pytest.raises(ConfigurationError, match=r"0\.0\.0\.0"):
        await start(nursery, StatusAddress.of(("localhost", 0)))


async def test_a_port_that_is_taken(nursery: trio.Nursery) -> None:
    taken = int((await start(nursery, LOOPBACK)).rpartition(":")[2])
    with pytest.raises(ConfigurationError, match="cannot be served on 127"):
        await start(nursery, StatusAddress(None, "127.0.0.1", taken))
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost", 200),
        ("[::1]:80", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("metadata", 421),
        ("", 421),
        ("a b", 400),
        ("evil.example:80@127.0.0.1", 400),
    ],
)
async def test_a_web_page_cannot_reach_it_by_a_name_of_its_own(nursery: trio.Nursery, host: str, status: int) -> None:
    async with await connect(await start(nursery, LOOPBACK)) as stream:
        await stream.send_all(b"GET /v1/status HTTP/1.1\r\nHost: %s\r\n\r\n" % host.encode())
        answer = await stream.receive_some()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    if status == 421:
        assert b"or localhost" in answer
        assert b"management" not in answer
    nursery.cancel_scope.cancel()


async def test_a_client_that_never_reads_does_not_delay_the_end() -> None:
    source = FakeSource(endpoint(streams=tuple(stream(number) for number in range(1000))))
    with trio.fail_after(patience(20)):
        async with trio.open_nursery() as serving:
            client = await connect(await start(serving, LOOPBACK, source))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            with trio.move_on_after(1):
                while True:
                    await client.send_all(b"GET /v1/status?limit=1000 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            serving.cancel_scope.cancel()
        await client.aclose()


async def test_there_is_a_limit_of_connections(nursery: trio.Nursery) -> None:
    address = await start(nursery, LOOPBACK)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(32):
            stream = await stack.enter_async_context(await connect(address))
            await stream.send_all(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        stream = await stack.enter_async_context(await connect(address))
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 503")
    nursery.cancel_scope.cancel()
