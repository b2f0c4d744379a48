"""Ports of transports that accept by themselves, instead of letting the relay accept their sockets."""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path

import pytest
import trio

from hybridrelay.abc import Address, Binding, Connection, Dialer, Incoming, Listener, Port, Purpose, Route, Transport
from hybridrelay.errors import ConfigurationError
from hybridrelay.events import Event, EventStream, ResourcesShort
from hybridrelay.protocol.preamble import PROBE_SIZE, STATUS_SIZE, Preamble, decode_status_untrusted
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay import RelayConfig, RelayInfo, run_relay
from hybridrelay.streams import receive_exactly
from hybridrelay.testing import MemoryTransport

from ...waiting import patience


class OwnListener(Listener):
    """Accepts by itself: a transport over something that is not a stream. Its first attempts fail for want of
    memory."""

    def __init__(self, inner: Listener) -> None:
        self._inner = inner
        self._failures = 2

    @property
    def bound(self) -> tuple[Binding, ...]:
        return self._inner.bound

    async def accept(self) -> Incoming:
        if self._failures:
            self._failures -= 1
            raise OSError(errno.ENOMEM, "no memory")
        return await self._inner.accept()

    async def aclose(self) -> None:
        await self._inner.aclose()


class OwnTransport(Transport):
    name = "own"

    def __init__(self, port: Port) -> None:
        self.routes = (Route("own", 1, port),)

    async def connect(self, address: Address, dialer: Dialer) -> Connection:
        raise AssertionError("the relay dials nobody")

    async def listen(self, binding: Binding) -> Listener:
        return OwnListener(await MemoryTransport().listen(binding))


async def test_its_connections_are_served_like_all_others(tmp_path: Path, nursery: trio.Nursery) -> None:
    transport = OwnTransport(Port("own", 1))
    config = RelayConfig(state_dir=tmp_path / "state", bindings={"own": (Binding("127.0.0.1", 0),)})
    events: list[Event] = []
    run = partial(run_relay, config, transports={"own": transport}, events=EventStream(events.append))
    info: RelayInfo = await nursery.start(run)
    (binding,) = info.bound["own"]
    for _ in range(2):
        async with await trio.open_tcp_stream(binding.host, binding.port) as stream:
            await stream.send_all(Preamble(Purpose.PROBE).encode())
            with trio.fail_after(patience(20)):
                assert decode_status_untrusted(await receive_exactly(stream, STATUS_SIZE)) is Reason.NO_ERROR
                await stream.send_all(b"x" * PROBE_SIZE)
                assert await receive_exactly(stream, PROBE_SIZE) == b"x" * PROBE_SIZE
                assert await stream.receive_some() == b""
    (short,) = [event for event in events if isinstance(event, ResourcesShort)]
    assert short.where == "port own", "one event for both attempts that failed"
    nursery.cancel_scope.cancel()


async def test_outer_tls_needs_streams(tmp_path: Path) -> None:
    transport = OwnTransport(Port("own", 1, outer_tls=True))
    config = RelayConfig(state_dir=tmp_path / "state", bindings={"own": (Binding("127.0.0.1", 0),)})
    with pytest.raises(ConfigurationError, match="outer TLS"):
        await run_relay(config, transports={"own": transport})
