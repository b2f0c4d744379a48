"""`--status` of connectors and forwards that run as processes."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import socketserver
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybridrelay.streams.unix_sockets import short_path

from ..deployments import Deployment, Program
from ..waiting import patience, wait_until
from .conftest import Run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the relay runs on Linux")

LISTENS = r"status\.listening: .*address=(\S+)"
SECONDS = 20.0


class UnixConnection(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=patience(SECONDS))
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(patience(SECONDS))
        with short_path(Path(self._path)) as name:
            self.sock.connect(name)


def get(address: str, path: str) -> tuple[int, bytes]:
    connection = UnixConnection(address) if address.startswith("/") else http.client.HTTPConnection(address)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def get_json(address: str, path: str) -> Any:
    return json.loads(get(address, path)[1])


def where(program: Program) -> str:
    """Where a program serves its status."""
    return program.wait_for_line(LISTENS, where="err")[1]


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path) as deployment:
        deployment.start_relay()
        yield deployment


@pytest.fixture
def target() -> Iterator[tuple[str, int]]:
    """Answers nothing, and ends when the other side does."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):
                while self.request.recv(65536):
                    pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield "127.0.0.1", server.server_address[1]
        server.shutdown()


def test_both_ends_of_a_stream(deployment: Deployment, target: tuple[str, int], tmp_path: Path) -> None:
    published, path = deployment.create("orders", target), tmp_path / "connector.sock"
    connector = deployment.start_connector(published, arguments=["--status", str(path)])
    forward = deployment.start_forward(published, arguments=["--status", "127.0.0.1:0"])
    assert re.fullmatch(r"ready connector orders=127\.0\.0\.1:\d+", connector.out), "the ready line is as before"
    assert re.fullmatch(r"ready forward orders=127\.0\.0\.1:\d+", forward.program.out)
    assert where(connector) == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    address = where(forward.program)
    assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", address)
    with socket.create_connection(("127.0.0.1", forward.port)) as sock:
        sock.sendall(b"x" * 1000)

        def has_arrived() -> bool:
            streams = get_json(str(path), "/v1/status")["streams"]
            return bool(streams) and streams[0]["bytesToTarget"] == 1000

        wait_until(has_arrived, seconds=SECONDS, what="the bytes")
        there, here = get_json(str(path), "/v1/status"), get_json(address, "/v1/status")
        assert (there["role"], here["role"]) == ("connector", "forward")
        assert there["problems"] == here["problems"] == []
        assert [one["id"] for one in there["sessions"]] == [one["id"] for one in here["sessions"]]
        assert [one["id"] for one in there["streams"]] == [one["id"] for one in here["streams"]]
        (stream,) = here["streams"]
        assert stream["application"] == f"127.0.0.1:{sock.getsockname()[1]}"
        assert there["streams"][0]["target"] == f"127.0.0.1:{target[1]}"
        assert here["hybridConnections"][0]["listening"] == [f"127.0.0.1:{forward.port}"]
        mistaken = deployment.run("status", "--from", str(deployment.state / "management.sock"))
        assert mistaken.returncode == 2
        assert "is not a connector or forward with --status" in mistaken.stderr
        relay = json.loads(deployment.run("status", "--json", "--state", deployment.state).stdout)
        assert relay["sessions"][0]["id"] == there["sessions"][0]["rendezvous"]
        assert relay["listeners"][0]["instance"] == there["hybridConnections"][0]["relays"][0]["instance"]
        for one in (str(path), address):
            shown = deployment.run("status", "--from", one)
            assert (shown.returncode, shown.stderr) == (0, "")
            assert there["streams"][0]["id"] in shown.stdout
            assert json.loads(deployment.run("status", "--json", "--from", one).stdout)["problems"] == []
            assert get(one, "/readyz")[0] == get(one, "/livez")[0] == 200
            assert b"hybridrelay_streams_opened_total" in get(one, "/metrics")[1]
    watching = deployment.start("status", "--watch", "--from", str(path), ready="^connector running")
    assert connector.terminate() == forward.program.terminate() == 0
    assert not path.exists()
    watching.wait_for_line(f"no program serves its status on {path}")
    watching.process.send_signal(signal.SIGINT)
    assert watching.wait() == 1
    gone = deployment.run("status", "--from", str(path))
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "start the connector or forward with this --status" in gone.stderr


def test_before_it_is_ready_and_when_the_relay_is_away(
    deployment: Deployment, target: tuple[str, int], tmp_path: Path
) -> None:
    published = deployment.create("orders", target)
    deployment.programs[0].terminate()
    config = tmp_path / "connector.toml"
    config.write_text(
        f'connection-string-file = ["{published.connector}"]\nstatus = "status.sock"\ncheck-target = true\n'
    )
    with Program(deployment.command("connector", "--config", config)) as connector:
        address = where(connector)
        assert address == str(tmp_path / "status.sock"), "relative to the file"
        connector.wait_for_line("relay.unavailable", where="err")
        status, body = get(address, "/readyz")
        checks = {one["name"]: one for one in json.loads(body)["checks"]}
        assert status == 503
        assert (checks["registered"]["ok"], checks["target"]["ok"]) == (False, True)
        assert "cannot be reached" in checks["registered"]["detail"]
        assert checks["registered"]["remedy"]
        assert get_json(address, "/v1/status")["problems"][0]["code"] == "not-registered"
        shown = deployment.run("status", "--from", address)
        assert shown.returncode == 1
        assert "\n! orders is not registered at any relay: " in shown.stdout
        deployment.start_relay()
        connector.wait_for_line("^ready")
        assert get(address, "/readyz")[0] == 200


def test_a_program_that_stops_is_not_ready(deployment: Deployment, target: tuple[str, int]) -> None:
    """It is served for as long as the last connection lasts, and a client that never reads does not delay the end."""
    published = deployment.create("orders", target)
    arguments = ["--status", "127.0.0.1:0", "--grace", "60"]
    connector = deployment.start_connector(published, arguments=arguments)
    forward = deployment.start_forward(published, arguments=arguments)
    addresses = {program: where(program) for program in (connector, forward.program)}
    with contextlib.ExitStack() as closing:
        with socket.create_connection(("127.0.0.1", forward.port)) as sock:
            sock.sendall(b"x")

            def is_open() -> bool:
                return bool(get_json(addresses[connector], "/v1/status")["streamCount"])

            wait_until(is_open, seconds=SECONDS, what="the stream")
            for program, address in addresses.items():
                host, _, port = address.rpartition(":")
                stalled = closing.enter_context(socket.create_connection((host, int(port))))
                stalled.sendall(b"GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 50)
                program.process.send_signal(signal.SIGTERM)
                program.wait_for_line("program.stop-requested", where="err")
                status, body = get(address, "/readyz")
                assert status == 503
                assert "accepting" in [one["name"] for one in json.loads(body)["checks"] if not one["ok"]]
                assert get_json(address, "/v1/status")["stopping"]
        assert [program.wait(SECONDS) for program in addresses] == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--status", "0.0.0.0:9351"), "not a loopback address"),
        (("--status", "127.0.0.1:x"), "expected a port number"),
        (("--status", ""), "expected a path"),
        (("--status", "/nowhere/status.sock"), "the directory /nowhere does not exist"),
    ],
)
@pytest.mark.parametrize("command", ["connector", "forward"])
def test_an_address_that_cannot_be_used(
    run: Run, deployment: Deployment, command: str, arguments: tuple[str, ...], expected: str
) -> None:
    published = deployment.create("orders", ("127.0.0.1", 9))
    file = published.connector if command == "connector" else published.application
    result = run(command, "--connection-string-file", file, *arguments)
    assert result.code == 2
    assert expected in result.err


def test_one_program_is_asked(run: Run) -> None:
    assert run("status").code == 2
    both = run("status", "--state", "state", "--from", "127.0.0.1:9351")
    assert both.code == 2
    assert "not allowed with" in both.err
    for_another = run("status", "--from", "127.0.0.1:9351", "--token-file", "token")
    assert for_another.code == 2
    assert "--token-file can only be used with --management, and not with --from" in for_another.err


def test_an_option_that_needs_another_one(run: Run, deployment: Deployment) -> None:
    published = deployment.create("orders", ("127.0.0.1", 9))
    result = run("connector", "--connection-string-file", published.connector, "--check-target")
    assert result.code == 2
    assert "--check-target needs --status" in result.err
