"""The prober behind a proxy, in virtual time: what it finds, and how much time a proxy costs that drops packets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import pytest
import trio
import trio.testing

from hybridrelay.abc import Dialer, Transport
from hybridrelay.connectivity import NoRouteWorks, Prober, ProxyDial, ProxySettings

from .conftest import FakeNetwork
from .proxies import ScriptedProxy, join, read_head

NATIVE = (9350, 5671, 9352)


async def serve(
    stream: trio.abc.HalfCloseableStream,
    *,
    network: FakeNetwork,
    refused: Sequence[int] = (),
    dropped: Sequence[int] = (),
) -> None:
    """A CONNECT proxy in front of the network of the other prober tests."""
    host, _, digits = (await read_head(stream)).split()[1].rpartition(":")
    port = int(digits)
    if port in dropped:
        await trio.sleep_forever()
    if port in refused:
        await stream.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        return
    try:
        onward = await network.dial(host, port)
    except OSError:
        await stream.send_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        return
    async with onward:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        await join(stream, onward)


class MakeProber(Protocol):
    """Makes a prober behind a proxy that refuses some ports, and drops what goes to others."""

    def __call__(self, url: str = ..., *, refused: Sequence[int] = (), dropped: Sequence[int] = ()) -> Prober: ...


@pytest.fixture
def make_prober(nursery: trio.Nursery, network: FakeNetwork, transports: dict[str, Transport]) -> MakeProber:
    def make(
        url: str = "http://proxy.corp:3128", *, refused: Sequence[int] = (), dropped: Sequence[int] = ()
    ) -> Prober:
        proxy = ScriptedProxy(nursery, partial(serve, network=network, refused=refused, dropped=dropped))
        return Prober(network.endpoint, transports=transports, dialer=Dialer(proxy.through(url)))

    return make


async def test_where_a_proxy_refuses_native_ports_websocket_is_used(
    make_prober: MakeProber, network: FakeNetwork, autojump_clock: trio.testing.MockClock
) -> None:
    network.behaviours = dict.fromkeys((*NATIVE, 443, 80), "right")
    prober = make_prober("http://me:hunter2@proxy.corp:3128", refused=NATIVE)
    decision = await prober.choose()
    assert decision.candidate.route.name == "wss"
    assert trio.current_time() < 1
    report = await prober.survey()
    attempts = json.loads(report.as_json())["attempts"]
    assert [attempt["reason"] for attempt in attempts] == ["proxy-refused"] * 3 + [None] * 2
    assert {attempt["proxy"] for attempt in attempts} == {"http://proxy.corp:3128"}
    assert (
        "the proxy http://proxy.corp:3128 refuses port 9350 of relay.example.com (403 Forbidden)"
        in attempts[0].values()
    )
    assert "through http://proxy.corp:3128)" in report.as_table()
    assert "hunter2" not in report.as_table() + report.as_json()


async def test_a_proxy_that_drops_packets_to_native_ports_costs_little(
    make_prober: MakeProber, network: FakeNetwork, autojump_clock: trio.testing.MockClock
) -> None:
    network.behaviours = dict.fromkeys((443, 80), "right")
    began = trio.current_time()
    decision = await make_prober(dropped=NATIVE).choose()
    assert decision.candidate.route.name == "wss"
    assert trio.current_time() - began < 3
    report = await make_prober(dropped=NATIVE).survey()
    assert [a.failure and a.failure.kind for a in report.attempts] == ["proxy-silent"] * 3 + [None] * 2


async def test_behind_the_proxy_nothing_is_there(
    make_prober: MakeProber, network: FakeNetwork, autojump_clock: trio.testing.MockClock
) -> None:
    with pytest.raises(NoRouteWorks) as caught:
        await make_prober().choose()
    assert "cannot connect to relay.example.com:9350 (503 Service Unavailable)" in str(caught.value)
    assert "the relay serves this port" in (caught.value.remedy or "")


async def test_a_stalled_port_behind_the_proxy_is_not_the_fault_of_the_proxy(
    make_prober: MakeProber, network: FakeNetwork, autojump_clock: trio.testing.MockClock
) -> None:
    network.behaviours = dict.fromkeys((*NATIVE, 443, 80), "stalled")
    report = await make_prober().survey()
    assert {a.failure.kind for a in report.attempts if a.failure} == {"stalled"}


async def test_a_proxy_that_does_not_answer_is_named(
    network: FakeNetwork, transports: dict[str, Transport], autojump_clock: trio.testing.MockClock
) -> None:
    async def dial(host: str, port: int) -> trio.abc.HalfCloseableStream:
        assert (host, port) == ("proxy.corp", 1080)
        raise ConnectionRefusedError(111, "refused")

    through = ProxyDial(ProxySettings.explicit("socks5://proxy.corp"), dial=dial)
    with pytest.raises(NoRouteWorks) as caught:
        await Prober(network.endpoint, transports=transports, dialer=Dialer(through)).choose()
    assert str(caught.value) == (
        "the relay relay.example.com cannot be reached at the default ports 9350, 443, 80: "
        "the proxy socks5://proxy.corp:1080 cannot be reached: connection refused"
    )
    assert "check the proxy's address" in (caught.value.remedy or "")
