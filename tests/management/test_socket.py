"""The socket of a running relay: who may connect, how it ends, and two administrators at the same time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from hybridrelay.events import Event, EventStream, ManagementUnavailable, ReloadFailed
from hybridrelay.events.plain_log import plainly_logged_events
from hybridrelay.management import serve_management
from hybridrelay.relay import RelayInfo, SQLiteStore
from hybridrelay.relay.store import sqlite as sqlite_store
from hybridrelay.relay.store.state_dir import REGISTRY_FILE
from hybridrelay.streams.unix_sockets import connect_unix_socket

from ..certificates import CertificateAuthority
from ..credentials import pretend_user
from ..deployments import Deployment
from ..http.serving import Client
from ..waiting import patience
from .live import FakeRelay

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")

CONNECTIONS = "/v1/hybridConnections"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    SQLiteStore.open(tmp_path / "state").close()
    return tmp_path / "state"


async def start(nursery: trio.Nursery, state: Path, events: list[Event] | None = None) -> trio.Event:
    stop, stream = trio.Event(), EventStream()
    if events is not None:
        stream.subscribe(events.append)
    serve = partial(serve_management, state, lambda: RelayInfo({}, "pin"), FakeRelay(), stop=stop, events=stream)
    await nursery.start(serve)
    return stop


async def test_only_its_owner_can_connect_and_nothing_is_left_of_it(state: Path, nursery: trio.Nursery) -> None:
    path = state / "management.sock"
    async with trio.open_nursery() as serving:
        stop = await start(serving, state)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with await connect_unix_socket(path) as stream:
            assert (await Client(stream, host="localhost").request("GET", "/v1/relay")).status == 200
        stop.set()
    assert not path.exists()


async def test_what_is_only_in_the_log_is_among_the_events_too(state: Path, nursery: trio.Nursery) -> None:
    """Such as a reload, from any thread."""
    stop = await start(nursery, state)
    for number in range(2):
        plainly_logged_events().publish(ReloadFailed(detail=f"in line {number}"))
    await trio.to_thread.run_sync(lambda: plainly_logged_events().publish(ReloadFailed(detail="in a thread")))
    async with await connect_unix_socket(state / "management.sock") as stream:
        answer = await Client(stream, host="localhost").request("GET", "/v1/events?wait=20&name=reload.")
    assert [one["fields"] for one in json.loads(answer.body)["value"]] == [
        {"detail": "in line 0"}, {"detail": "in line 1"}, {"detail": "in a thread"},
    ]  # fmt: skip
    stop.set()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked for the credentials of the client")
@pytest.mark.parametrize(("user", "is_served"), [(os.geteuid(), True), (0, True), (os.geteuid() + 1, False)])
async def test_a_client_of_another_user_is_refused_even_if_the_mode_of_the_socket_lets_it_connect(
    state: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, user: int, is_served: bool
) -> None:
    """The credentials are those that the system would state, because only root could connect as another user."""
    await start(nursery, state)
    stream = await connect_unix_socket(state / "management.sock")
    pretend_user(monkeypatch, type(stream.socket), user)
    with trio.fail_after(patience(20)):
        async with stream:
            if is_served:
                assert (await Client(stream, host="localhost").request("GET", "/v1/relay")).status == 200
            else:
                answer = b""
                with contextlib.suppress(trio.BrokenResourceError):  # it may be closed before the request was sent
                    await stream.send_all(b"GET /v1/relay HTTP/1.1\r\nHost: x\r\n\r\n")
                    answer = await stream.receive_some()
                assert answer == b""
    nursery.cancel_scope.cancel()


async def test_names_that_are_not_this_machines_are_refused(state: Path, nursery: trio.Nursery) -> None:
    """A browser can reach the socket through a local port of ``ssh -L``, and then so can pages of other sites."""
    stop = await start(nursery, state)
    for host, expected in (("localhost:9180", 200), ("127.0.0.1", 200), ("evil.example", 421)):
        async with await connect_unix_socket(state / "management.sock") as stream:
            assert (await Client(stream, host=host).request("GET", "/v1/relay")).status == expected
    stop.set()


async def test_a_relay_that_stops_leaves_the_socket_of_the_next_one(state: Path) -> None:
    """A request is under way, for which the first one still waits when the second one already listens."""
    path = state / "management.sock"
    with trio.fail_after(patience(20)):
        async with trio.open_nursery() as second:
            async with trio.open_nursery() as first:
                stop = await start(first, state)
                unfinished = await connect_unix_socket(path)
                await unfinished.send_all(
                    b"PUT /v1/hybridConnections/x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
                )
                await trio.testing.wait_all_tasks_blocked(0.01)
                stop.set()
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert not path.exists()
                stop_second = await start(second, state)
                await unfinished.send_all(b"123456789")
            await trio.aclose_forcefully(unfinished)
            async with await connect_unix_socket(path) as stream:
                assert (await Client(stream, host="localhost").request("GET", "/v1/relay")).status == 200
            stop_second.set()
    assert not path.exists()


async def test_a_client_that_never_reads_does_not_delay_the_end(state: Path) -> None:
    with SQLiteStore.open(state) as store:
        for number in range(50):
            store.create(f"db{number}", ["relay.example.com"], [])
    with trio.fail_after(patience(20)):
        async with trio.open_nursery() as serving:
            stop = await start(serving, state)
            stream = await connect_unix_socket(state / "management.sock")
            request = b"GET /v1/hybridConnections HTTP/1.1\r\nHost: x\r\n\r\n"
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            with trio.move_on_after(1):
                while True:
                    await stream.send_all(request)
            stop.set()
        await stream.aclose()


async def test_without_a_socket_the_relay_runs_all_the_same(state: Path) -> None:
    (state / "management.sock").write_text("not a socket")
    events: list[Event] = []
    with trio.fail_after(patience(20)):
        async with trio.open_nursery() as serving:
            await start(serving, state, events)
    (event,) = events
    assert isinstance(event, ManagementUnavailable)
    assert (state / "management.sock").read_text() == "not a socket"


async def test_nothing_that_is_read_waits_for_changes_of_a_locked_registry(
    state: Path, nursery: trio.Nursery
) -> None:
    await start(nursery, state)
    made: list[int] = []

    async def create(number: int) -> None:
        async with await connect_unix_socket(state / "management.sock") as stream:
            answer = await Client(stream, host="localhost").request(
                "PUT", f"{CONNECTIONS}/c{number}", b'{"endpoints": ["h"]}', Content_Type="application/json"
            )
        made.append(answer.status)

    with contextlib.closing(sqlite3.connect(state / REGISTRY_FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with trio.open_nursery() as changing, await connect_unix_socket(state / "management.sock") as stream:
            for number in range(4):
                changing.start_soon(create, number)
            await trio.testing.wait_all_tasks_blocked(0.05)
            for path in ("/v1/relay", CONNECTIONS, "/v1/tokens"):
                assert (await Client(stream, host="localhost").request("GET", path)).status == 200
            assert made == []
            other.rollback()
    assert made == [201] * 4


async def test_a_change_of_a_locked_registry_may_be_tried_again(
    state: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "BUSY_TIMEOUT_SECONDS", 0.01)
    await start(nursery, state)
    with contextlib.closing(sqlite3.connect(state / REGISTRY_FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with await connect_unix_socket(state / "management.sock") as stream:
            answer = await Client(stream, host="localhost").request(
                "PUT", f"{CONNECTIONS}/x", b'{"endpoints": ["h"]}', Content_Type="application/json"
            )
    assert (answer.status, dict(answer.headers)["retry-after"]) == (503, "1")
    problem = json.loads(answer.body)
    assert problem["type"].endswith(":unavailable")
    assert problem["remedy"].startswith("try again")


async def test_two_administrators_at_once(state: Path, nursery: trio.Nursery) -> None:
    """Each of them reads and then changes: every change is made, or its caller is told that it was not."""
    await start(nursery, state)
    made = {"first": 0, "second": 0}

    async def change(who: str) -> None:
        async with await connect_unix_socket(state / "management.sock") as stream:
            await change_with(Client(stream, host="localhost"), who)

    async def change_with(client: Client, who: str) -> None:
        while made[who] < 10:
            read = await client.request("GET", f"{CONNECTIONS}/db")
            count = json.loads(read.body)["metadata"].get(who, "0")
            metadata = json.loads(read.body)["metadata"] | {who: str(int(count) + 1)}
            body = json.dumps({"endpoints": ["a"], "metadata": metadata}).encode()
            answer = await client.request(
                "PUT", f"{CONNECTIONS}/db", body, Content_Type="application/json", If_Match=read.headers["etag"]
            )
            assert answer.status in (200, 412)
            made[who] += answer.status == 200

    with SQLiteStore.open(state) as store:
        store.create("db", ["a"], [])
        async with trio.open_nursery() as administrators:
            for administrator in made:
                administrators.start_soon(change, administrator)
        assert store.get("db").description.metadata == {"first": "10", "second": "10"}
    nursery.cancel_scope.cancel()


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path) as deployment:
        yield deployment


def test_of_a_running_relay_with_curl(deployment: Deployment) -> None:
    """What docs/management.md shows."""
    relay = deployment.start_relay()

    def curl(*arguments: str) -> str:
        # From inside the directory: curl does not take a path of more than 107 bytes.
        done = subprocess.run(
            ["curl", "--silent", "--show-error", "--fail", "--unix-socket", "management.sock", *arguments],
            check=False, capture_output=True, text=True, timeout=60, cwd=deployment.state,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert json.loads(curl("http://localhost/v1/relay"))["ports"]["control"]
    body = '{"endpoints": ["127.0.0.1"], "description": "Orders"}'
    put = ("-X", "PUT", "-H", "Content-Type: application/json", "-d", body)
    assert json.loads(curl(*put, "http://localhost/v1/hybridConnections/orders"))["description"] == "Orders"
    listed = deployment.run("connections", "list", "--json", "--state", deployment.state)
    assert [one["name"] for one in json.loads(listed.stdout)] == ["orders"]
    relay.wait_for_line("connection.created: .*connection=orders", where="err")
    called = f"management.called: .*connection=orders.*caller='local uid {os.geteuid()}'"
    relay.wait_for_line(called, where="err")
    assert relay.terminate() == 0
    assert not (deployment.state / "management.sock").exists()


def test_over_tcp_with_curl(deployment: Deployment, tmp_path: Path) -> None:
    """What docs/management.md shows: a token, TLS, a configuration file, a port that the system chooses, SIGHUP."""
    certificate, key = CertificateAuthority().issue("localhost", "127.0.0.1")
    (tmp_path / "admin.pem").write_bytes(certificate)
    (tmp_path / "admin.key").write_bytes(key)
    (tmp_path / "relay.toml").write_text(
        'management = ["127.0.0.1:0"]\nmanagement-tls-certificate = "admin.pem"\nmanagement-tls-key = "admin.key"\n'
    )
    # The relay begins without the API over TCP, and needs no restart for it.
    config = (tmp_path / "relay.toml").read_text()
    (tmp_path / "relay.toml").write_text("")
    relay = deployment.start_relay("--config", str(tmp_path / "relay.toml"))
    (tmp_path / "relay.toml").write_text(config)
    relay.process.send_signal(signal.SIGHUP)
    port = relay.wait_for_line(r"management.listening: .*address=127.0.0.1:(\d+) tls=True", where="err")
    made = deployment.run(
        "tokens", "create", "ci", "--role", "viewer", "--out", tmp_path / "ci.token", "--state", deployment.state
    )
    assert made.returncode == 0, made.stderr
    header = tmp_path / "header"
    header.write_text(f"Authorization: Bearer {(tmp_path / 'ci.token').read_text().strip()}\n")

    def status(path: str, *arguments: str) -> str:
        done = subprocess.run(
            ["curl", "--silent", "--insecure", "--output", os.devnull, "--write-out", "%{http_code}",
             "--header", f"@{header}", *arguments, f"https://127.0.0.1:{port[1]}{path}"],
            check=True, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.stdout

    assert status("/v1/relay") == "200"
    assert status("/v1/relay", "--header", "Host: evil.example") == "421"
    assert status("/v1/hybridConnections/orders", "--request", "DELETE") == "403"
    relay.wait_for_line("management.called: .*peer=127.0.0.1.*status=403.*caller='token ci ", where="err")
    certificate, key = CertificateAuthority().issue("localhost", "127.0.0.1")
    (tmp_path / "admin.key").write_bytes(key)
    (tmp_path / "admin.pem").write_bytes(certificate)
    relay.process.send_signal(signal.SIGHUP)
    relay.wait_for_line("certificate.renewed: .*admin.pem", where="err")
    assert deployment.run("tokens", "revoke", "ci", "--state", deployment.state).returncode == 0
    assert status("/v1/relay") == "401"
    relay.wait_for_line("management.authentication-failed: .*peer=127.0.0.1", where="err")
    assert relay.terminate() == 0
