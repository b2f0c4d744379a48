"""The prober against real sockets, with the transports that are installed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay.abc import Binding, Port
from hybridrelay.connectivity import (
    CheckTiming,
    NoRouteWorks,
    Prober,
    ProbeTiming,
    RelayEndpoint,
    all_ports,
    discover,
    open_channel,
    open_control_stream,
)
from hybridrelay.errors import TransportError
from hybridrelay.protocol.preamble import Purpose
from hybridrelay.security import load_or_create_relay_certificate, outer_server_context
from hybridrelay.streams.listening import StreamListener
from hybridrelay.streams.outer_tls import accept_outer_tls

from .conftest import Certificates, Listen, Server

NATIVE = ("probe", "control", "data")
PORTS = (*NATIVE, "https", "http")


@pytest.fixture
async def relay(
    nursery: trio.Nursery, certificates: Certificates, tmp_path: Path, make_server: Callable[[str], Server]
) -> RelayEndpoint:
    """Every port of every transport on a free port of 127.0.0.1, as the relay would serve them."""
    outer = outer_server_context(load_or_create_relay_certificate(tmp_path, now=time.time(), name="outer"))
    transports = discover()
    serving = {
        port.name: transport for transport in transports.values() for port in all_ports({"": transport}).values()
    }
    numbers = {}

    async def handle(port: Port, listener: StreamListener, stream: trio.abc.HalfCloseableStream) -> None:
        with contextlib.suppress(TransportError, trio.BrokenResourceError):
            dressed = await accept_outer_tls(stream, outer) if port.outer_tls else stream
            accepted = await listener.incoming(dressed, "127.0.0.1").handshake()
            if accepted is not None:
                async with accepted.stream:
                    await make_server("right")(accepted.stream)

    for port in all_ports(transports).values():
        listener = await serving[port.name].listen(Binding("127.0.0.1", 0))
        assert isinstance(listener, StreamListener)
        nursery.start_soon(partial(trio.serve_listeners, partial(handle, port, listener), list(listener.sockets)))
        numbers[port.name] = listener.bound[0].port
    return RelayEndpoint("127.0.0.1", numbers, (certificates.pin,))


@pytest.mark.parametrize(
    ("mode", "broken", "chosen"),
    [
        ("auto", (), "tcp"),
        ("tcp", (), "tcp"),
        ("websocket", (), "wss"),
        ("auto", NATIVE, "wss"),
        ("auto", ("probe",), "wss"),
        ("auto", ("control",), "wss"),
        ("auto", ("data",), "wss"),
        ("auto", (*NATIVE, "https"), "ws"),
        ("websocket", ("https",), "ws"),
        ("auto", PORTS, None),
        ("tcp", ("data",), None),
    ],
)
async def test_chosen_route_carries_channels(
    mode: str, broken: tuple[str, ...], chosen: str | None, relay: RelayEndpoint, refusing_port: int
) -> None:
    endpoint = attrs.evolve(relay, ports={**relay.ports, **dict.fromkeys(broken, refusing_port)})
    prober = Prober(endpoint, mode=mode)
    if chosen is None:
        with pytest.raises(NoRouteWorks) as caught:
            await prober.choose()
        assert caught.value.report.failures
        return
    decision = await prober.choose()
    assert decision.candidate.route.name == chosen
    assert (await prober.survey()).chosen == chosen
    ticket = bytes(range(1, 33))
    async with await open_channel(endpoint, decision.candidate, Purpose.DATA, ticket=ticket) as stream:
        received = b""
        while len(received) < len(ticket):
            received += await stream.receive_some()
        assert received == ticket
    async with await open_control_stream(endpoint, decision.candidate) as tls:
        assert tls.version() == "TLSv1.3"


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("behaviour", ["stalled", "closed", "reset", "garbage", "http", "wrong-pin"])
async def test_one_port_misbehaves(port: str, behaviour: str, relay: RelayEndpoint, listen: Listen) -> None:
    endpoint = attrs.evolve(relay, ports={**relay.ports, port: await listen(behaviour)})
    # Short deadlines where silence has to be waited for; a slow machine may then find others silent, too.
    stalled = behaviour == "stalled"
    timing = ProbeTiming(CheckTiming(transport_seconds=0.3, status_seconds=0.3) if stalled else CheckTiming())
    report = await Prober(endpoint, timing=timing).survey()
    attempt = next(attempt for attempt in report.attempts if attempt.port == endpoint.ports[port])
    if behaviour == "wrong-pin" and port == "probe":
        # No certificate is shown there.
        assert attempt.failure is None
        return
    expected = {
        "stalled": {"stalled"},
        "closed": {"closed-early", "not-a-relay", "reset"},
        "reset": {"reset", "closed-early", "not-a-relay"},
        # Closing with something unread is a reset, which may overtake the answer.
        "garbage": {"not-a-relay", "tls-failed", "reset"},
        "http": {"not-a-relay", "tls-failed", "reset"},
        # Not even a WebSocket server, where that is asked for.
        "wrong-pin": {"wrong-identity"} if port in ("control", "data") else {"not-a-relay", "closed-early", "reset"},
    }[behaviour]
    assert attempt.failure is not None
    assert attempt.failure.kind in expected
    assert stalled or report.chosen == ("wss" if port in NATIVE else "tcp")
