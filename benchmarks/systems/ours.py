"""hybridrelay as users run it: relay, connector and client are its commands with their default settings."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from hybridrelay import parse_connection_string_untrusted

from ..ports import HOST, free_port
from ..programs import run
from .base import CONNECTOR, Deployment, System

#: The command of the installed version.
HYBRIDRELAY = (sys.executable, "-m", "hybridrelay")
_PORTS = ("probe", "control", "data", "http", "https")


class HybridRelay(System):
    """hybridrelay with one transport. The relay opens only the ports of this transport, so that no other can be
    chosen."""

    reconnects = True
    outlives_relay = True

    def __init__(
        self,
        name: str,
        description: str,
        mode: str,
        ports: tuple[str, ...],
        *,
        connector_options: Sequence[str] = (),
        relay_options: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._connector_options = connector_options
        self._relay_options = relay_options
        self.description = description
        self._mode = mode
        self._opened = ports

    def start(self, deployment: Deployment) -> None:
        """Start a relay, create a hybrid connection, and start both sides of it."""
        directory = deployment.directory
        ports = {name: free_port() if name in self._opened else None for name in _PORTS}
        text = ",".join(f"{name}={port or 'off'}" for name, port in ports.items())
        state = directory / "state"
        options: list[str | Path] = ["--state", state, "--host", HOST, "--ports", text, *self._relay_options]
        relay = deployment.start_relay([*HYBRIDRELAY, "relay", *options])
        relay.wait_for_line("^ready")
        connector, application = directory / "connector", directory / "application"
        run([
            *HYBRIDRELAY, "connections", "create", "bench", "--endpoint", HOST, "--state", state,
            "--target", f"{HOST}:{deployment.server.port}",
            "--connector-file", connector, "--application-file", application,
            "--authority-file", directory / "authority",
        ])  # fmt: skip
        strings = "--connection-string-file"
        mode = ("--mode", self._mode)
        started = deployment.start(
            CONNECTOR, [*HYBRIDRELAY, "connector", strings, connector, *mode, *self._connector_options]
        )
        started.wait_for_line("^ready")
        if deployment.line is not None:
            _lead_across(application, deployment, ports)
        deployment.entry = free_port()
        listen = f"{HOST}:{deployment.entry}"
        client = deployment.start_client([*HYBRIDRELAY, "forward", strings, application, "--listen", listen, *mode])
        client.wait_for_line("^ready")


def _lead_across(file: Path, deployment: Deployment, ports: Mapping[str, int | None]) -> None:
    """Replace the relay's ports in the client's connection string by the near ends of the line."""
    near = {name: None if port is None else deployment.across(port) for name, port in ports.items()}
    string = parse_connection_string_untrusted(file.read_text())
    (relay,) = string.endpoints
    file.write_text(attrs.evolve(string, endpoints=(attrs.evolve(relay, ports=near),)).format())


NATIVE = HybridRelay("tcp", "hybridrelay over native TCP", "tcp", ("probe", "control", "data"))
WS = HybridRelay("ws", "hybridrelay over WebSocket on HTTP", "websocket", ("http",))
WSS = HybridRelay("wss", "hybridrelay over WebSocket on HTTPS", "websocket", ("https",))
