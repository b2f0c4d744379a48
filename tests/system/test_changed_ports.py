"""A relay that listens elsewhere while it runs: nothing that is open ends, and a mistake changes nothing."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
import trio

from hybridrelay.abc import Binding, Purpose
from hybridrelay.errors import ConfigurationError
from hybridrelay.events import Event, EventStream
from hybridrelay.events.relay_changes import PortClosed, PortOpened
from hybridrelay.protocol.preamble import PROBE_SIZE, STATUS_SIZE, Preamble, decode_status_untrusted
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay import Relay, RelayConfig, load_public_ports
from hybridrelay.relay.service import relay as relay_module
from hybridrelay.streams import receive_exactly

from ..certificates import CertificateAuthority
from ..waiting import patience

HOST = "127.0.0.1"
PROBE = (Binding(HOST, 0),)


@attrs.define
class Running:
    relay: Relay
    config: RelayConfig
    published: list[Event]

    def number(self, port: str, place: int = 0) -> int:
        assert self.relay.info is not None
        return self.relay.info.bound[port][place].port

    def said(self) -> list[tuple[str, str]]:
        """What was opened and closed since the last call."""
        found = [(one.name, one.port) for one in self.published if isinstance(one, PortOpened | PortClosed)]
        self.published.clear()
        return found

    async def change(self, bindings: Mapping[str, tuple[Binding, ...]], certificate: Path | None = None) -> None:
        await self.relay.update(attrs.evolve(self.config, bindings=bindings, tls_certificate=certificate))


@asynccontextmanager
async def running(state_dir: Path, **bindings: tuple[Binding, ...]) -> AsyncIterator[Running]:
    published: list[Event] = []
    config = RelayConfig(state_dir=state_dir, bindings=bindings)
    relay = Relay(config, events=EventStream(published.append))
    async with trio.open_nursery() as nursery:
        await nursery.start(relay.run)
        yield Running(relay, config, published)
        nursery.cancel_scope.cancel()


async def begin_probe(stream: trio.abc.Stream) -> None:
    await stream.send_all(Preamble(Purpose.PROBE).encode())
    with trio.fail_after(patience(20)):
        assert decode_status_untrusted(await receive_exactly(stream, STATUS_SIZE)) is Reason.NO_ERROR


async def end_probe(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"x" * PROBE_SIZE)
    with trio.fail_after(patience(20)):
        assert await receive_exactly(stream, PROBE_SIZE) == b"x" * PROBE_SIZE


async def answers(number: int, host: str = HOST) -> bool:
    """Whether the relay answers a probe on this port."""
    try:
        stream = await trio.open_tcp_stream(host, number)
    except OSError:
        return False
    async with stream:
        await begin_probe(stream)
        await end_probe(stream)
    return True


async def shown_certificate(number: int) -> bytes | None:
    """The certificate that the relay shows on a port with outer TLS."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    stream = await trio.open_tcp_stream(HOST, number)
    with trio.fail_after(patience(20)):
        async with trio.SSLStream(stream, context, https_compatible=True) as tls:
            await tls.do_handshake()
            shown: bytes | None = tls.getpeercert(binary_form=True)
            return shown


@pytest.fixture(params=["watched", "a task for each"])
def each_way_to_accept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Linux, and as elsewhere."""
    if request.param != "watched":
        monkeypatch.setattr(relay_module, "sys", SimpleNamespace(platform="other"))


@pytest.mark.usefixtures("each_way_to_accept")
async def test_ports_are_opened_and_closed_and_what_was_accepted_continues(tmp_path: Path) -> None:
    kept = Binding("127.0.0.2", 0)
    async with running(tmp_path / "state", probe=(Binding(HOST, 0), kept)) as relay:
        gone, stays = relay.number("probe"), relay.number("probe", 1)
        async with (
            await trio.open_tcp_stream(HOST, gone) as waiting,
            await trio.open_tcp_stream(kept.host, stays) as other,
        ):
            await begin_probe(waiting)
            await begin_probe(other)
            await relay.change({"probe": (kept,), "http": PROBE})
            assert relay.said() == [("port.closed", "probe"), ("port.opened", "http")]
            assert relay.number("probe") == stays
            assert [await answers(gone), await answers(stays, kept.host)] == [False, True]
            await end_probe(waiting)
            await end_probe(other)
        ports = load_public_ports(tmp_path / "state")
        assert (ports["probe"], ports["http"], ports["data"]) == (stays, relay.number("http"), None)
        await relay.change({"probe": (kept,), "http": PROBE})
        assert relay.said() == []


async def test_another_host_on_the_same_port(tmp_path: Path) -> None:
    """The system does not allow one address of a port while every address of it is open."""
    async with running(tmp_path / "state", probe=(Binding("0.0.0.0", 0),)) as relay:
        number = relay.number("probe")
        assert await answers(number, "127.0.0.2")
        await relay.change({"probe": (Binding("0.0.0.0", number),)})
        await relay.change({"probe": (Binding(HOST, number), Binding("127.0.0.3", number))})
        assert [await answers(number, host) for host in (HOST, "127.0.0.2", "127.0.0.3")] == [True, False, True]
        await relay.change({"probe": (Binding("0.0.0.0", number),)})
        assert await answers(number, "127.0.0.2")


async def test_a_port_that_is_in_use_changes_nothing(tmp_path: Path) -> None:
    authority = CertificateAuthority()
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(b"".join(authority.issue("relay.example.com")))
    with socket.create_server((HOST, 0)) as taken:
        async with running(tmp_path / "state", probe=PROBE, https=PROBE) as relay:
            number, before = relay.number("probe"), relay.relay.info
            shown = await shown_certificate(relay.number("https"))
            wanted = {"https": PROBE, "data": PROBE, "http": (Binding(HOST, taken.getsockname()[1]),)}
            with pytest.raises(ConfigurationError, match=r"port http cannot listen on .*in use"):
                await relay.change(wanted, certificate=certificate)
            assert relay.said() == []
            assert relay.relay.info is before
            assert await answers(number)
            assert await shown_certificate(relay.number("https")) == shown


async def test_two_ports_with_the_same_number(tmp_path: Path) -> None:
    """The message names the other port, even if the address of one of them is a wildcard."""
    async with running(tmp_path / "state", probe=PROBE) as relay:
        number = relay.number("probe")
        probe = Binding(HOST, number)
        await relay.change({"probe": (probe,)})
        says = f"port http cannot listen on .*: port probe of this relay listens on {probe}"
        for host in (HOST, "0.0.0.0", ""):
            with pytest.raises(ConfigurationError, match=says) as raised:
                await relay.change({"probe": (probe,), "http": (Binding(host, number),)})
            assert "its own number" in str(raised.value.remedy)
        assert await answers(number)
        # Another program is the reason, although a port of the relay has the same number at another address.
        with (
            socket.create_server(("127.0.0.2", number)),
            pytest.raises(ConfigurationError, match=r"port http cannot listen on .*in use"),
        ):
            await relay.change({"probe": (probe,), "http": (Binding("127.0.0.2", number),)})


async def test_a_first_certificate_and_the_port_that_needs_it(tmp_path: Path) -> None:
    certificate = tmp_path / "certificate.pem"
    pem = b"".join(CertificateAuthority().issue("relay.example.com"))
    async with running(tmp_path / "state", probe=PROBE) as relay:
        await relay.change({"probe": PROBE, "https": PROBE})
        made = await shown_certificate(relay.number("https"))
        with pytest.raises(ConfigurationError, match=r"certificate\.pem"):
            await relay.change({"probe": PROBE, "https": PROBE}, certificate=certificate)
        assert await shown_certificate(relay.number("https")) == made
        certificate.write_bytes(pem)
        await relay.change({"probe": PROBE, "https": PROBE}, certificate=certificate)
        shown = await shown_certificate(relay.number("https"))
        assert shown is not None
        assert ssl.DER_cert_to_PEM_cert(shown).encode() in pem.replace(b"\r\n", b"\n")
        await relay.change({"probe": PROBE, "https": PROBE})
        assert await shown_certificate(relay.number("https")) == made


async def test_not_every_port_may_be_off(tmp_path: Path) -> None:
    async with running(tmp_path / "state", probe=PROBE) as relay:
        for bindings, says in (({}, "all ports are off"), ({"prob": PROBE}, "unknown port 'prob'")):
            with pytest.raises(ConfigurationError, match=says):
                await relay.change(bindings)
        assert await answers(relay.number("probe"))


async def test_a_relay_that_does_not_run_yet(tmp_path: Path) -> None:
    config = RelayConfig(state_dir=tmp_path / "state", bindings={"probe": PROBE})
    relay = Relay(config)
    assert await relay.update(attrs.evolve(config, bindings={"data": PROBE})) == ()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(relay.run))
        assert relay.info is not None
        assert set(relay.info.bound) == {"data"}
        nursery.cancel_scope.cancel()
    assert relay.info is None
