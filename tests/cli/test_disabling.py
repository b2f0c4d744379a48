"""`hybridrelay connections disable` and `enable`, with a relay, a connector and a client that run as processes."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from ..deployments import Deployment
from .conftest import Run


def test_what_the_programs_say(tmp_path: Path) -> None:
    with Deployment(tmp_path) as deployment, socket.create_server(("127.0.0.1", 0)) as target:
        relay = deployment.start_relay()
        published = deployment.create("orders", target.getsockname())
        connector = deployment.start_connector(published)
        forward = deployment.start_forward(published)
        disabled = deployment.run("connections", "disable", "orders", "--state", deployment.state)
        assert disabled.returncode == 0
        assert disabled.stdout.startswith("disabled orders: ")
        relay.wait_for_line("connection.disabled: .*connection=orders", where="err")
        for program in (connector, forward.program):
            program.wait_for_line("reason=connection-disabled.*connections enable", where="err")
        shown = deployment.run("status", "--state", deployment.state)
        assert "orders (disabled)" in shown.stdout
        assert shown.returncode == 0, "that no connector listens is not a problem now"
        enabled = deployment.run("connections", "enable", "orders", "--state", deployment.state)
        assert (enabled.returncode, enabled.stdout) == (0, "enabled orders\n")
        relay.wait_for_line("connection.enabled: .*connection=orders", where="err")
        with socket.create_connection(("127.0.0.1", forward.port)) as sock:
            accepted, _ = target.accept()
            with accepted:
                sock.sendall(b"x")
                assert accepted.recv(1) == b"x"


def test_a_hybrid_connection_is_disabled_while_no_relay_runs(run: Run, tmp_path: Path) -> None:
    state = ["--state", str(tmp_path / "state")]
    files = [f"--{name}-file={tmp_path / name}" for name in ("connector", "application", "authority")]
    create = ["connections", "create", "orders", "--target", "db:1", "--endpoint", "localhost", *state, *files]
    assert run(*create).code == 0
    assert run("connections", "disable", "orders", *state).code == 0
    assert "orders" in run("connections", "list", *state).out
    assert "(disabled)" in run("connections", "list", *state).out
    assert "disabled: the relay refuses all requests" in run("connections", "show", "orders", *state).out
    assert json.loads(run("connections", "show", "orders", "--json", *state).out)["disabled"] is True
    unknown = run("connections", "disable", "others", *state)
    assert unknown.code == 2
    assert "there is no hybrid connection 'others'" in unknown.err
