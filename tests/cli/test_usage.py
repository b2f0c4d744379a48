"""`hybridrelay usage`, limits and editions, with a relay, a connector and a client that run as processes."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from ..deployments import Deployment, Program
from ..waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")


@pytest.fixture
def target() -> Iterator[tuple[str, int]]:
    """It reads everything, and answers with one byte at the end."""

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                while connection.recv(65536):
                    pass
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()
        server.shutdown(socket.SHUT_RDWR)


def send(port: int, size: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(bytes(size))
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b"x"


def usage(deployment: Deployment, *arguments: str) -> dict[str, dict[str, int]]:
    shown = deployment.run("usage", *arguments, "--json", "--state", deployment.state)
    assert shown.returncode == 0, shown.stderr
    found: dict[str, dict[str, int]] = json.loads(shown.stdout)
    return found


def test_usage_survives_a_relay_that_is_killed(deployment: Deployment, target: tuple[str, int]) -> None:
    relay = deployment.start_relay()
    published = deployment.create("orders", target)
    deployment.start_connector(published)
    forward = deployment.start_forward(published)
    send(forward.port, 500_000)
    wait_until(lambda: usage(deployment)["bytes"]["used"] > 500_000, seconds=30, what="it is counted")

    def is_saved() -> bool:
        # What is saved can be read from the file by anybody, so it is there after a kill.
        import sqlite3

        with sqlite3.connect(f"file:{deployment.state}/usage.db?mode=ro", uri=True) as database:
            (saved,) = database.execute("SELECT sum(to_connector) FROM usage WHERE connection = 'orders'").fetchone()
        return (saved or 0) > 500_000

    wait_until(is_saved, seconds=30, what="it is saved, every ten seconds")
    keys = deployment.run("keys", "list", "orders", "--json", "--state", deployment.state)
    used = {(one["rule"], one["key"]): one["last_used"] for one in json.loads(keys.stdout)}
    assert [used[rule, "primary"] is None for rule in ("application", "connector")] == [False, False]
    assert used["application", "secondary"] is None
    before = usage(deployment, "orders")["usage"]
    relay.process.send_signal(signal.SIGKILL)
    relay.wait()
    deployment.start_relay()
    after = usage(deployment, "orders")["usage"]
    assert 500_000 <= after["bytes"] < before["bytes"] + 100_000
    assert after["joins"] >= before["joins"], "the client has resumed its session, or is about to"
    keys = deployment.run("keys", "list", "orders", "--json", "--state", deployment.state)
    assert {(one["rule"], one["key"]) for one in json.loads(keys.stdout) if one["last_used"]} == {
        ("application", "primary"),
        ("connector", "primary"),
    }


def test_a_limit_is_seen_in_the_log_of_those_who_are_refused(deployment: Deployment, target: tuple[str, int]) -> None:
    deployment.start_relay()
    published = deployment.create("orders", target)
    where = ("--state", deployment.state)
    limited = deployment.run("connections", "limits", "orders", "--listeners", "1", "--senders", "1", *where)
    assert limited.returncode == 0, limited.stderr
    assert "its own" in limited.stdout
    limited = deployment.run("connections", "limits", "orders", "--end-at-limit", "no", *where)
    assert re.search(r"^end at limit .*its own$", limited.stdout, re.MULTILINE), limited.stdout
    deployment.start_connector(published)
    deployment.start_forward(published)
    second = Program(deployment.command("connector", "--connection-string-file", published.connector))
    listen = ("--listen", "127.0.0.1:0")
    third = Program(deployment.command("forward", "--connection-string-file", published.application, *listen))
    with second, third:
        second.wait_for_line("reason=listener-quota.*1 of 1 listeners.*connections limits", where="err")
        third.wait_for_line("reason=sender-quota.*1 of 1 senders.*connections limits", where="err")
    shown = deployment.run("usage", "orders", *where)
    assert "listeners" in shown.stdout
    status = deployment.run("status", *where)
    assert status.returncode == 1
    assert "1 of 1 listeners of orders are used; further requests are refused" in status.stdout


def test_an_edition_limits_a_running_relay(deployment: Deployment, target: tuple[str, int]) -> None:
    relay = deployment.start_relay()
    deployment.create("orders", target)
    where = ("--state", deployment.state)
    changed = deployment.run("editions", "set", "free", "--connections", "1", "--bytes-per-month", "1.5GB", *where)
    assert (changed.returncode, "1.50 GB" in changed.stdout) == (0, True)
    used = deployment.run("editions", "use", "free", *where)
    assert used.stdout == "The relay uses the edition free: 1 hybrid connections (now 1), 1.50 GB per month.\n"
    assert "free (in use)" in deployment.run("editions", "list", *where).stdout
    refused = deployment.run(
        "connections", "create", "second", "--target", "db:1", "--endpoint", "localhost", *where,
        *(f"--{name}-file={deployment.directory / name}" for name in ("connector", "application", "authority")),
    )  # fmt: skip
    assert refused.returncode in (1, 2)
    assert "allows 1 hybrid connections" in refused.stderr
    relay.wait_for_line("relay-quota.reached", where="err")
    shown = deployment.run("usage", *where)
    assert shown.stdout.startswith("edition: free\nhybrid connections: 1 of 1\nbytes in ")
    unknown = deployment.run("editions", "use", "gold", *where)
    assert unknown.returncode in (1, 2)
    assert "there is no edition 'gold'" in unknown.stderr


def test_a_damaged_file_does_not_stop_the_relay(deployment: Deployment, target: tuple[str, int]) -> None:
    with deployment.start_relay() as relay:
        deployment.create("orders", target)
        relay.terminate()
        assert relay.wait() == 0
    (deployment.state / "usage.db").write_bytes(b"not a database" * 1000)
    relay = deployment.start_relay()
    relay.wait_for_line("state-file.set-aside.*usage.db", where="err")
    assert usage(deployment, "orders")["usage"]["bytes"] == 0
