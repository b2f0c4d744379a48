"""A relay that is stopped at the moment at which a connection arrives ends normally."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path

import pytest
import trio

from hybridrelay.relay import Binding, Relay, RelayConfig, RelayInfo
from hybridrelay.relay.service.connections import ControlPeers

from .deployment import HOST, PORTS

ROUNDS = 5


async def test_connections_that_arrive_while_it_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wakes the task that accepts on its port in the pass of the scheduler in which the relay ends."""
    arriving: list[socket.socket] = []
    info: list[RelayInfo] = []

    async def arrive(_: ControlPeers, retry_after: float, seconds: float) -> None:
        ports = [(bindings[0].host, bindings[0].port) for bindings in info[0].bound.values()]
        arriving.extend(socket.create_connection(port) for port in 3 * ports)
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(ControlPeers, "announce_stop", arrive)
    config = RelayConfig(state_dir=tmp_path / "state", bindings={port: (Binding(HOST, 0),) for port in PORTS})
    for _ in range(ROUNDS):
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            info[:] = [await nursery.start(partial(Relay(config).run, stop=stop))]
            stop.set()
        for sock in arriving:
            sock.close()
        arriving.clear()
