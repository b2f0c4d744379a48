"""A relay reads its configuration file again at SIGHUP: what it uses, what needs a restart, and a bad file."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from ..deployments import Deployment, Program, free_port
from ..waiting import patience
from .targets import echo, exchange, serve

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGHUP")


#: What a reload says about the configuration file.
RELOADS = {"options.reloaded", "options.unchanged", "reload.failed", "restart.needed"}


def answers_probe(port: int) -> bool:
    """Whether the relay waits for what a client sends first, and does not close the connection of a client that has
    sent something other than a PROXY header."""
    with socket.create_connection(("127.0.0.1", port), timeout=patience(30)) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n")
        try:
            return sock.recv(12) == b"HTTP/1.1 200"
        except ConnectionResetError:
            return False


def problems(deployment: Deployment) -> list[dict[str, str]]:
    """The problems that the status of the relay shows."""
    shown = deployment.run("status", "--json", "--state", deployment.state)
    found: list[dict[str, str]] = json.loads(shown.stdout)["relay"]["problems"]
    assert shown.returncode == (1 if found else 0)
    return found


async def hang_up(relay: Program, path: Path, text: str, says: str) -> str:
    """Change the file, send SIGHUP, and return the line of the log that follows."""
    before = len(relay.err)
    path.write_text(text)
    relay.process.send_signal(signal.SIGHUP)
    while True:
        (line, *_) = [one for one in relay.err[before:].splitlines() if says in one] or [""]
        if line:
            return line
        await trio.to_thread.run_sync(partial(relay.wait_for_line, says, where="err"))


async def test_proxies_are_changed_and_other_settings_need_a_restart(tmp_path: Path, nursery: trio.Nursery) -> None:
    target = await serve(nursery, echo)
    config = tmp_path / "relay.toml"
    config.write_text("")

    def start() -> tuple[Deployment, Program, int]:
        deployment = Deployment(tmp_path)
        relay = deployment.start_relay("--config", str(config))
        published = deployment.create("orders", target)
        deployment.start_connector(published)
        return deployment, relay, deployment.start_forward(published).port

    deployment, relay, port = await trio.to_thread.run_sync(start)
    with deployment:
        http = deployment.ports["http"]
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"before")
            assert await stream.receive_some() == b"before"
            assert await trio.to_thread.run_sync(answers_probe, http)

            changed = 'proxy-protocol-from = "127.0.0.0/8"\nclient-addresses = "none"\n'
            line = await hang_up(relay, config, changed, "options.reloaded")
            assert "changed=proxy-protocol-from,client-addresses" in line
            assert not await trio.to_thread.run_sync(answers_probe, http)
            await stream.send_all(b"still")
            assert await stream.receive_some() == b"still"

            # A bad file changes nothing, and the log, the events and the status say where the mistake is.
            line = await hang_up(relay, config, 'max-pairs = 9\nproxy-protocol-from = "nowhere"\n', "reload.failed")
            assert "relay.toml: line 2: proxy-protocol-from" in line
            (problem,) = await trio.to_thread.run_sync(problems, deployment)
            assert problem["code"] == "reload-failed"
            assert "relay.toml: line 2: proxy-protocol-from" in problem["detail"]
            assert not await trio.to_thread.run_sync(answers_probe, http)

            line = await hang_up(relay, config, "max-pairs = 9\nkeep-pairs = 3\n", "restart.needed")
            assert "changed=max-pairs,keep-pairs" in line
            assert "options.reloaded" in relay.err.rpartition("reload.failed")[2]
            (problem,) = await trio.to_thread.run_sync(problems, deployment)
            assert problem["code"] == "restart-needed"
            assert problem["detail"].endswith("max-pairs, keep-pairs")
            assert await trio.to_thread.run_sync(answers_probe, http)
            nowhere = f'audit-to = "syslog+tcp://127.0.0.1:{free_port()}"\n'
            await hang_up(relay, config, nowhere, "audit.sink-failed")
            (problem,) = await trio.to_thread.run_sync(problems, deployment)
            assert problem["code"] == "audit-failed"
            await hang_up(relay, config, "", "options.reloaded")
            await hang_up(relay, config, "", "options.unchanged")
            assert await trio.to_thread.run_sync(problems, deployment) == []
            listed = await trio.to_thread.run_sync(deployment.run, "events", "--state", deployment.state)
            assert [name for name in re.findall(r"(\w+\.\w+):", listed.stdout) if name in RELOADS] == [
                "options.reloaded", "reload.failed", "options.reloaded", "restart.needed", *["options.reloaded"] * 2,
                "options.unchanged",
            ]  # fmt: skip
            data = os.urandom(50_000)
            assert await exchange(port, data) == data
        nursery.cancel_scope.cancel()
