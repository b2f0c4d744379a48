"""`hybridrelay status` and `hybridrelay drain` against a relay that runs as a process."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..deployments import Deployment, Program
from .conftest import Run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")


@pytest.fixture
def target() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()


@pytest.mark.parametrize(
    "command",
    [["status"], ["status", "--json"], ["drain"], ["drain", "--undo"], ["drop", "listener", "orders", "1" * 32]],
    ids=lambda command: " ".join(command[:2]),
)
def test_without_a_relay_it_says_whether_the_directory_or_the_relay_is_missing(
    run: Run, tmp_path: Path, command: list[str]
) -> None:
    missing = run(*command, "--state", tmp_path / "nowhere")
    assert (missing.code, missing.out) == (2, "")
    assert "does not exist" in missing.err
    stopped = run(*command, "--state", tmp_path)
    assert (stopped.code, stopped.out) == (1, "")
    assert f"no relay is running with the state directory {tmp_path}" in stopped.err


def test_what_runs_is_shown_with_the_problems_first(deployment: Deployment, target: tuple[str, int]) -> None:
    relay = deployment.start_relay()
    assert deployment.run("status", "--state", deployment.state).returncode == 0
    published = deployment.create("orders", target)
    unserved = deployment.run("status", "--state", deployment.state)
    assert unserved.returncode == 1
    assert "! no connector listens for orders\n" in unserved.stdout
    deployment.start_connector(published)
    forward = deployment.start_forward(published)
    with socket.create_connection(("127.0.0.1", forward.port)) as sock:
        sock.sendall(b"x" * 100_000)
        served, status = deployment.run("status", "--state", deployment.state), {}

        for _ in range(100):  # the bytes are on their way
            status = json.loads(deployment.run("status", "--json", "--state", deployment.state).stdout)
            if status["sessions"] and status["sessions"][0]["bytesToConnector"] > 100_000:
                break
        (listener,), (sender,), (session,) = status["listeners"], status["senders"], status["sessions"]
        assert session["bytesToConnector"] > 100_000, "seen before the connection ends"
        assert (listener["sessions"], sender["sessions"]) == (1, 1)
        assert status["hybridConnections"][0]["sessionCount"] == 1
        assert session["listener"]["instance"] == listener["instance"]
        for what, one in (("session", session["id"]), ("sender", sender["id"]), ("listener", listener["instance"])):
            dropped = deployment.run("drop", what, "orders", one, "--state", deployment.state)
            assert (dropped.returncode, dropped.stdout) == (0, f"The {what} {one} of orders has ended.\n")
            again = deployment.run("drop", what, "orders", one[:-4] + "beef", "--state", deployment.state)
            assert (again.returncode, again.stdout) == (1, "")
            assert f"there is no {what} {one[:-4]}beef of orders" in again.stderr
        relay.wait_for_line("sender.dropped.*reason=administrator-dropped", where="err")
        relay.wait_for_line("listener.left.*reason=administrator-dropped", where="err")
        unknown = deployment.run("drop", "session", "others", "4" * 32, "--state", deployment.state)
        assert unknown.returncode == 2
        assert "others" in unknown.stderr
    assert served.returncode == 0
    assert listener["instance"] in served.stdout
    assert "listeners: 1" in served.stdout


def test_a_drain_and_its_end(deployment: Deployment, target: tuple[str, int]) -> None:
    deployment.start_relay()
    published = deployment.create("orders", target)
    drained = deployment.run("drain", "--state", deployment.state)
    assert (drained.returncode, drained.stdout) == (
        0,
        "The relay accepts no new registrations and joins. Sessions left: 0.\n",
    )
    shown = deployment.run("status", "--state", deployment.state)
    assert shown.returncode == 1
    assert shown.stdout.startswith("relay draining")
    with Program(deployment.command("connector", "--connection-string-file", published.connector)) as connector:
        connector.wait_for_line("reason=relay-draining", where="err")
        undone = deployment.run("drain", "--undo", "--state", deployment.state)
        assert (undone.returncode, undone.stdout) == (0, "The relay accepts registrations and joins again.\n")
        connector.wait_for_line("^ready")


def test_watching_goes_on_until_it_is_stopped(deployment: Deployment) -> None:
    relay = deployment.start_relay()
    watching = deployment.start("status", "--watch", "--state", deployment.state, ready="^relay running")
    relay.terminate()
    watching.wait_for_line("no relay is running with the state directory")
    watching.process.send_signal(signal.SIGINT)
    assert watching.wait() == 1
    deployment.start_relay()
    watching = deployment.start("status", "--watch", "--state", deployment.state, ready="^relay running")
    watching.process.send_signal(signal.SIGINT)
    assert watching.wait() == 0
