"""A program loads only the packages that it needs, because loading is most of the time that it takes to start."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from pathlib import Path

import pytest
import trio

from ..deployments import Deployment, Program
from .targets import echo, serve

#: Makes Python write the name of each module that it loads to the standard error.
_NAMES_ARE_WRITTEN = {"PYTHONPROFILEIMPORTTIME": "1"}
_LOADED = re.compile(r"^import time:.*\|\s*(\S+)$", re.MULTILINE)

#: What neither side of a hybrid connection needs if it uses native TCP.
_NOT_FOR_EITHER_SIDE = (
    "hybridrelay.administration",
    "hybridrelay.events.management",
    "hybridrelay.events.relay",
    "hybridrelay.http",
    "hybridrelay.management",
    "hybridrelay.monitoring",
    "hybridrelay.relay",
    "hybridrelay.testing",
    "hybridrelay_websocket.frames",
    "h11",
    "msgspec",
    "sqlite3",
    "tomllib",
    "trio_websocket",
    "wsproto",
    "zoneinfo",
)
_CLIENT = ("hybridrelay.client", "hybridrelay.events.client")
_CONNECTOR = (
    "hybridrelay.connector",
    "hybridrelay.events.connector",
    "hybridrelay.events.connector_resources",
)


def _loaded(err: str, packages: Collection[str]) -> set[str]:
    """Return which of these packages and modules a program has loaded, from its standard error."""
    names = set(_LOADED.findall(err))
    assert "trio" in names
    return {package for package in packages if any(f"{name}.".startswith(f"{package}.") for name in names)}


def _start(deployment: Deployment, *arguments: str | Path) -> Program:
    return deployment.start(*arguments, environment=_NAMES_ARE_WRITTEN)


async def test_connector_and_forward_load_no_servers(deployment: Deployment, nursery: trio.Nursery) -> None:
    published = deployment.create("db", await serve(nursery, echo))
    # On a busy machine, they might choose WebSocket.
    native = ("--mode", "tcp")
    connector = _start(deployment, "connector", "--connection-string-file", published.connector, *native)
    forward = _start(
        deployment, "forward", "--connection-string-file", published.application, "--listen", "127.0.0.1:0", *native
    )
    ready = re.search(r"127\.0\.0\.1:(\d+)", forward.out)
    assert ready is not None
    async with await trio.open_tcp_stream("127.0.0.1", int(ready[1])) as stream:
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
    assert forward.terminate() == connector.terminate() == 0
    assert _loaded(forward.err, (*_NOT_FOR_EITHER_SIDE, *_CONNECTOR)) == set()
    assert _loaded(connector.err, (*_NOT_FOR_EITHER_SIDE, *_CLIENT)) == set()
    nursery.cancel_scope.cancel()


def test_the_relay_loads_neither_connector_nor_client(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("the relay runs on Linux")
    with Deployment(tmp_path) as deployment:
        ports = "probe=0,control=0,data=0,http=0,https=off"
        relay = _start(deployment, "relay", "--state", deployment.state, "--host", "127.0.0.1", "--ports", ports)
        assert relay.terminate() == 0
        others = ("hybridrelay.client", "hybridrelay.connector", "hybridrelay.monitoring", "hybridrelay.testing")
        reaching_relays = ("hybridrelay.connectivity.control", "hybridrelay.connectivity.prober")
        assert _loaded(relay.err, (*others, *reaching_relays, "trio_websocket", "wsproto", "zoneinfo")) == set()


def test_commands_for_administrators_load_no_servers(deployment: Deployment) -> None:
    status = Program(deployment.command("status", "--state", deployment.state), environment=_NAMES_ARE_WRITTEN)
    listed = Program(
        deployment.command("connections", "list", "--state", deployment.state), environment=_NAMES_ARE_WRITTEN
    )
    assert status.wait() == listed.wait() == 0
    servers = ("hybridrelay.client", "hybridrelay.connector", "hybridrelay.http", "hybridrelay.relay.service")
    others = (
        "hybridrelay.mux",
        "hybridrelay.protocol.control",
        "hybridrelay.relay.snapshot",
        "cryptography",
        "wsproto",
    )
    events = ("hybridrelay.events.program", "hybridrelay.events.relay")
    assert _loaded(status.err, (*servers, *others, *events, "hybridrelay.administration")) == set()
    assert _loaded(listed.err, (*servers, *others, *events)) == set()
