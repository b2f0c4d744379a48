"""A relay behind proxies: the address that counts is the one that the proxies state, and only theirs is believed."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.abc import Binding, Purpose
from hybridrelay.events import (
    ChannelFailed,
    Event,
    EventStream,
    ForwardedAddressMalformed,
    PortOpened,
    ProxyHeaderRefused,
)
from hybridrelay.protocol.preamble import PROBE_SIZE, STATUS_SIZE, Preamble, decode_status_untrusted
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay import Relay, RelayConfig, RelayInfo
from hybridrelay.relay.config import ClientAddresses
from hybridrelay.relay.service import relay as relay_module
from hybridrelay.relay.store.public_ports import load_public_ports
from hybridrelay.security import parse_networks_untrusted
from hybridrelay.streams import receive_exactly

from ..waiting import patience

#: The address of the proxy, and one of somebody else.
PROXY, OTHER = "127.0.0.5", "127.0.0.6"
CLIENT = "192.0.2.7"
V1 = f"PROXY TCP4 {CLIENT} 198.51.100.1 4711 443\r\n".encode()
V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes([192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 1, 0xBB])
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
UPGRADE = (
    "GET /hybridrelay HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    "Sec-WebSocket-Protocol: hybridrelay.v1\r\n{fields}\r\n"
)


@attrs.define
class Running:
    """A relay that runs."""

    info: RelayInfo
    published: list[Event]
    published_one: Callable[[], trio.Event]
    relay: Relay
    config: RelayConfig

    async def event(self, kind: type[Event]) -> Event:
        """The first event of a kind."""
        with trio.fail_after(patience(20)):
            while True:
                waiting = self.published_one()
                for event in self.published:
                    if isinstance(event, kind):
                        return event
                await waiting.wait()

    @asynccontextmanager
    async def connect(self, port: str, source: str = PROXY) -> AsyncIterator[trio.SocketStream]:
        """Connect to a port from an address of the loopback network."""
        (binding,) = self.info.bound[port]
        sock = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        await sock.bind((source, 0))
        await sock.connect((binding.host, binding.port))
        async with trio.SocketStream(sock) as stream:
            with trio.fail_after(patience(20)):
                yield stream


@asynccontextmanager
async def running(
    directory: Path, proxy_protocol_from: str = "192.0.2.1", trusted_proxies: str = "192.0.2.1"
) -> AsyncIterator[Running]:
    published: list[Event] = []
    waiting = trio.Event()

    def publish(event: Event) -> None:
        nonlocal waiting
        published.append(event)
        waiting.set()
        waiting = trio.Event()

    bindings = {name: (Binding("127.0.0.1", 0),) for name in ("probe", "control", "data", "http", "https")}
    config = RelayConfig(
        state_dir=directory / "state",
        bindings=bindings,
        proxy_protocol_from=parse_networks_untrusted(proxy_protocol_from),
        trusted_proxies=parse_networks_untrusted(trusted_proxies),
    )
    relay = Relay(config, events=EventStream(publish))
    async with trio.open_nursery() as nursery:
        info: RelayInfo = await nursery.start(relay.run)
        yield Running(info, published, lambda: waiting, relay, config)
        nursery.cancel_scope.cancel()


@pytest.fixture(params=["watched", "a task for each"])
def each_way_to_accept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Linux, and as elsewhere."""
    if request.param != "watched":
        monkeypatch.setattr(relay_module, "sys", SimpleNamespace(platform="other"))


async def probe(stream: trio.abc.HalfCloseableStream, header: bytes = b"") -> None:
    await stream.send_all(header + Preamble(Purpose.PROBE).encode())
    assert decode_status_untrusted(await receive_exactly(stream, STATUS_SIZE)) is Reason.NO_ERROR
    await stream.send_all(b"x" * PROBE_SIZE)
    assert await receive_exactly(stream, PROBE_SIZE) == b"x" * PROBE_SIZE


async def wait_closed(stream: trio.abc.ReceiveStream) -> None:
    """Wait until the relay has ended the connection."""
    try:
        while await stream.receive_some():
            pass
    except trio.BrokenResourceError:
        pass


@pytest.mark.usefixtures("each_way_to_accept")
@pytest.mark.parametrize("header", [V1, V2, LOCAL, b"PROXY UNKNOWN\r\n"])
async def test_a_header_comes_before_everything_else_on_every_port(tmp_path: Path, header: bytes) -> None:
    async with running(tmp_path, proxy_protocol_from="127.0.0.5") as relay:
        async with relay.connect("probe") as stream:
            await probe(stream, header)
        async with relay.connect("probe") as stream:  # one byte at a time
            for size in range(len(header)):
                await stream.send_all(header[size : size + 1])
                await trio.testing.wait_all_tasks_blocked()
            await probe(stream)
        for port in ("control", "https"):
            async with relay.connect(port) as stream:
                await stream.send_all(header)
                if port == "https":
                    context = ssl.create_default_context()
                    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                    tls = trio.SSLStream(stream, context, https_compatible=True)
                    await tls.send_all(b"GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n")
                    assert (await tls.receive_some()).startswith(b"HTTP/1.1 200")
                else:
                    await stream.send_all(Preamble(Purpose.CONTROL).encode())
                    assert decode_status_untrusted(await receive_exactly(stream, STATUS_SIZE)) is Reason.NO_ERROR
        async with relay.connect("http") as stream:
            await stream.send_all(header + b"nonsense\r\n\r\n")
            await wait_closed(stream)
        failed = await relay.event(ChannelFailed)
        assert isinstance(failed, ChannelFailed)
        assert failed.peer == (CLIENT if header in (V1, V2) else PROXY)
        assert not any(isinstance(event, ProxyHeaderRefused) for event in relay.published)


@pytest.mark.usefixtures("each_way_to_accept")
@pytest.mark.parametrize("port", ["probe", "data", "http", "https"])
@pytest.mark.parametrize(
    "sent", [b"GET /healthz HTTP/1.1\r\n\r\n", b"PROXY TCP4 nonsense\r\n", V2[:12] + b"\x31\x11\0\0"]
)
async def test_a_proxy_without_a_valid_header_is_refused(tmp_path: Path, port: str, sent: bytes) -> None:
    async with running(tmp_path, proxy_protocol_from="10.0.0.0/8,127.0.0.5") as relay:
        async with relay.connect(port) as stream:
            await stream.send_all(sent)
            await wait_closed(stream)
        refused = await relay.event(ProxyHeaderRefused)
        assert isinstance(refused, ProxyHeaderRefused)
        assert (refused.peer, refused.port) == (PROXY, port)
        assert refused.detail
        async with relay.connect(port) as stream:  # and everything goes on
            await stream.send_all(V1)


@pytest.mark.usefixtures("each_way_to_accept")
@pytest.mark.parametrize("sent", [b"", V1[:-1], V2[:-1]])
async def test_a_proxy_that_is_silent_is_refused_in_time(
    tmp_path: Path, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("edge.unauthenticated", "service.connections"):
        monkeypatch.setattr(f"hybridrelay.relay.{module}.AUTHENTICATION_DEADLINE_SECONDS", 0.3)
    async with running(tmp_path, proxy_protocol_from="127.0.0.5") as relay:
        async with relay.connect("http") as stream:
            if sent:
                await stream.send_all(sent)
            await wait_closed(stream)
        refused = await relay.event(ProxyHeaderRefused)
        assert isinstance(refused, ProxyHeaderRefused)
        assert (refused.peer, refused.port) == (PROXY, "http")


@pytest.mark.usefixtures("each_way_to_accept")
async def test_a_health_check_without_bytes_causes_no_event(tmp_path: Path) -> None:
    async with running(tmp_path, proxy_protocol_from="127.0.0.5") as relay:
        for _ in range(3):
            async with relay.connect("probe"):
                pass
        async with relay.connect("probe") as stream:
            await probe(stream, V1)
        assert [event for event in relay.published if isinstance(event, ProxyHeaderRefused)] == []


@pytest.mark.usefixtures("each_way_to_accept")
async def test_a_header_from_an_address_that_is_not_a_proxy_is_not_believed(tmp_path: Path) -> None:
    async with running(tmp_path, proxy_protocol_from="127.0.0.5", trusted_proxies="127.0.0.5") as relay:
        async with relay.connect("probe", OTHER) as stream:
            await probe(stream)
        async with relay.connect("http", OTHER) as stream:
            await stream.send_all(V1 + b"GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n")
            await wait_closed(stream)
        failed = await relay.event(ChannelFailed)
        assert isinstance(failed, ChannelFailed)
        assert failed.peer == OTHER


async def upgraded_peer(relay: Running, fields: str, source: str = PROXY, header: bytes = b"") -> str:
    """Which address counts for a WebSocket whose client leaves at once."""
    relay.published.clear()
    async with relay.connect("http", source) as stream:
        await stream.send_all(header + UPGRADE.format(fields=fields).encode())
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
    failed = await relay.event(ChannelFailed)
    assert isinstance(failed, ChannelFailed)
    return failed.peer


@pytest.mark.usefixtures("each_way_to_accept")
async def test_a_reverse_proxy_says_where_a_websocket_comes_from(tmp_path: Path) -> None:
    async with running(tmp_path, trusted_proxies="127.0.0.5,10.0.0.0/8") as relay:
        named = partial(upgraded_peer, relay)
        assert await named(f"X-Forwarded-For: {CLIENT}\r\n") == CLIENT
        assert await named(f"X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: {CLIENT}, 10.1.2.3\r\n") == CLIENT
        assert await named(f'Forwarded: for="{CLIENT}:99";proto=https\r\n') == CLIENT
        assert await named("") == PROXY
        assert await named(f"X-Forwarded-For: {CLIENT}\r\n", source=OTHER) == OTHER
        assert not any(isinstance(event, ForwardedAddressMalformed) for event in relay.published)
        assert await named(f"X-Forwarded-For: {CLIENT}, nonsense\r\n") == PROXY
        malformed = await relay.event(ForwardedAddressMalformed)
        assert isinstance(malformed, ForwardedAddressMalformed)
        assert (malformed.peer, malformed.port) == (PROXY, "http")
        assert "nonsense" not in malformed.detail


async def test_a_proxy_behind_a_proxy_of_the_other_kind_is_believed(tmp_path: Path) -> None:
    async with running(tmp_path, proxy_protocol_from="127.0.0.5", trusted_proxies="192.0.2.7") as relay:
        assert await upgraded_peer(relay, "X-Forwarded-For: 203.0.113.9\r\n", header=V1) == "203.0.113.9"
        assert await upgraded_peer(relay, "X-Forwarded-For: 203.0.113.9\r\n", header=LOCAL) == PROXY


@pytest.mark.usefixtures("each_way_to_accept")
async def test_the_proxies_can_be_changed_while_the_relay_runs(tmp_path: Path) -> None:
    """It applies to connections that arrive afterwards. One that waits for its preamble is not affected."""
    async with running(tmp_path) as relay, relay.connect("probe") as earlier:
        changed = attrs.evolve(
            relay.config,
            proxy_protocol_from=parse_networks_untrusted(PROXY),
            trusted_proxies=parse_networks_untrusted(OTHER),
            client_addresses=ClientAddresses.NONE,
            max_pairs=7,
        )
        async with relay.connect("probe") as stream:
            await probe(stream)
        assert await relay.relay.update(changed) == ("max_pairs",)
        async with relay.connect("probe") as stream:
            await probe(stream, V1)
        async with relay.connect("probe") as stream:
            await stream.send_all(Preamble(Purpose.PROBE).encode())
            await wait_closed(stream)
        refused = await relay.event(ProxyHeaderRefused)
        assert isinstance(refused, ProxyHeaderRefused)
        async with relay.connect("probe", OTHER) as stream:
            await probe(stream)
        assert await relay.relay.update(relay.config) == ()
        async with relay.connect("probe") as stream:
            await probe(stream)
        await probe(earlier)


async def test_a_change_that_is_cancelled_when_the_ports_have_changed_takes_effect_as_a_whole(tmp_path: Path) -> None:
    async with running(tmp_path) as relay:
        changed = attrs.evolve(
            relay.config,
            bindings={**relay.config.bindings, "probe": (Binding("127.0.0.2", 0),)},
            proxy_protocol_from=parse_networks_untrusted(PROXY),
        )
        with trio.CancelScope() as scope:

            def cancel_when_opened(event: Event) -> None:
                if isinstance(event, PortOpened):
                    scope.cancel()

            with relay.relay._events.subscribed(cancel_when_opened):
                await relay.relay.update(changed)
        assert scope.cancel_called
        assert relay.relay.info is not None
        relay.info = relay.relay.info
        assert [one.host for one in relay.info.bound["probe"]] == ["127.0.0.2"]
        assert load_public_ports(relay.config.state_dir) == relay.info.public_ports
        async with relay.connect("probe") as stream:
            await probe(stream, V1)
