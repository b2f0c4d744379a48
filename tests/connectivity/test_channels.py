"""Opening channels: which bytes are read, whose fault an error is said to be, and that every wait has a deadline."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.abc import Address, Binding, Connection, Dialer, Listener, Purpose, Route, Transport
from hybridrelay.connectivity import (
    Candidate,
    FailureKind,
    RelayEndpoint,
    Step,
    candidates,
    discover,
    open_channel,
    open_control_stream,
)
from hybridrelay.connectivity.channel import _refusal
from hybridrelay.connectivity.steps import ConnectTiming, StepFailed, connect, secure
from hybridrelay.errors import RelayIdentityError, RelayUnreachable, RendezvousError, TLSHandshakeError
from hybridrelay.protocol.preamble import PREAMBLE_SIZE, Preamble, decode_preamble_untrusted, encode_status
from hybridrelay.protocol.reasons import Category, Reason
from hybridrelay.security import (
    Secret,
    control_server_context,
    load_or_create_relay_certificate,
    make_admission_proof,
    parse_connection_string_untrusted,
    relay_pin,
)
from hybridrelay.streams import TLSStream, receive_exactly

from .conftest import Certificates, FakeNetwork, Listen

TICKET = bytes(range(1, 33))
RIGHT = {9350: "right", 5671: "right", 9352: "right", 443: "right", 80: "right"}


@pytest.fixture
def tcp(transports: dict[str, Transport]) -> Candidate:
    return Candidate(transports["tcp"].routes[0], transports["tcp"])


def opener(
    network: FakeNetwork,
    candidate: Candidate,
    purpose: Purpose = Purpose.DATA,
    ticket: bytes = TICKET,
) -> Callable[[], Awaitable[trio.abc.Stream]]:
    if purpose is Purpose.CONTROL:
        return partial(open_control_stream, network.endpoint, candidate, dialer=Dialer(network.dial))
    return partial(open_channel, network.endpoint, candidate, purpose, ticket=ticket, dialer=Dialer(network.dial))


# --- real sockets


async def test_over_a_real_socket(listen: Listen, certificates: Certificates) -> None:
    port = await listen("right")
    endpoint = RelayEndpoint("127.0.0.1", dict.fromkeys(("probe", "control", "data"), port), (certificates.pin,))
    (tcp,) = candidates(discover(), "tcp")
    async with await open_channel(endpoint, tcp, Purpose.DATA, ticket=TICKET) as stream:
        # The relay saw the ticket, and what follows the status is there to be read.
        assert await receive_exactly(stream, 32) == TICKET
    async with await open_control_stream(endpoint, tcp) as tls:
        assert tls.version() == "TLSv1.3"


@pytest.mark.parametrize(
    ("behaviour", "kinds"),
    [
        # Our preamble may find the other side closed already, and is answered with a reset then.
        ("closed", {FailureKind.CLOSED_EARLY, FailureKind.RESET}),
        ("reset", {FailureKind.RESET}),
        ("truncated", {FailureKind.CLOSED_EARLY}),
        ("garbage", {FailureKind.NOT_A_RELAY}),
        ("http", {FailureKind.NOT_A_RELAY}),
        ("newer", {FailureKind.VERSION_MISMATCH}),
    ],
)
async def test_what_is_not_a_relay(
    behaviour: str, kinds: set[FailureKind], listen: Listen, certificates: Certificates
) -> None:
    port = await listen(behaviour)
    endpoint = RelayEndpoint("127.0.0.1", {"data": port}, (certificates.pin,))
    (tcp,) = candidates(discover(), "tcp")
    with pytest.raises(RelayUnreachable, match=f"127.0.0.1:{port}") as caught:
        await open_channel(endpoint, tcp, Purpose.DATA, ticket=TICKET)
    assert caught.value.failure is not None
    assert caught.value.failure.kind in kinds
    assert caught.value.failure.step is Step.STATUS


async def test_a_port_on_which_nobody_listens_is_reported_as_that(refusing_port: int) -> None:
    endpoint = RelayEndpoint("127.0.0.1", {"data": refusing_port})
    (tcp,) = candidates(discover(), "tcp")
    with pytest.raises(RelayUnreachable, match="connection refused"):
        await open_channel(endpoint, tcp, Purpose.DATA, ticket=TICKET)


@pytest.mark.parametrize("pins", ["wrong", "none"])
async def test_a_server_that_is_not_the_relay_gets_nothing(
    pins: str, listen: Listen, certificates: Certificates
) -> None:
    port = await listen("wrong-pin")
    endpoint = RelayEndpoint("127.0.0.1", {"control": port}, (certificates.pin,) if pins == "wrong" else ())
    (tcp,) = candidates(discover(), "tcp")
    with pytest.raises(RelayIdentityError) as caught:
        await open_control_stream(endpoint, tcp)
    assert caught.value.remedy


# --- answers of the relay

RENDEZVOUS = {
    Reason.NO_LISTENER,
    Reason.LISTENER_ABSENT,
    Reason.LISTENER_SILENT,
    Reason.LISTENER_CANNOT_DIAL,
    Reason.LISTENER_DECLINED,
    Reason.TICKET_UNKNOWN,
    Reason.TICKET_OF_ANOTHER_RELAY,
    Reason.PEER_ABSENT,
    Reason.ADMINISTRATOR_DROPPED,
    Reason.RELAY_DRAINING,
    Reason.RENDEZVOUS_FAILED,
    *(reason for reason in Reason if reason.category is Category.QUOTA),
}


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.NO_ERROR])
async def test_the_relay_says_no(reason: Reason, transports: dict[str, Transport], nursery: trio.Nursery) -> None:
    transport = transports["tcp"]
    ours, theirs = trio.testing.memory_stream_pair()

    async def relay() -> None:
        preamble = decode_preamble_untrusted(await receive_exactly(theirs, PREAMBLE_SIZE))
        assert (preamble.purpose, preamble.credential) == (Purpose.DATA, TICKET)
        await theirs.send_all(encode_status(reason))

    async def dial(host: str, port: int) -> trio.abc.HalfCloseableStream:
        assert (host, port) == ("relay.example.com", 9352)
        return ours

    nursery.start_soon(relay)
    with pytest.raises((RendezvousError, RelayUnreachable)) as caught:
        await open_channel(
            RelayEndpoint("relay.example.com"),
            Candidate(transport.routes[0], transport),
            Purpose.DATA,
            ticket=TICKET,
            dialer=Dialer(dial),
        )
    assert type(caught.value) is (RendezvousError if reason in RENDEZVOUS else RelayUnreachable)
    categories = (Category.RENDEZVOUS, Category.RELAY_PORT, Category.QUOTA)
    believed = reason.category in categories and reason is not Reason.LISTENER_GONE
    assert caught.value.reason is (reason if believed else Reason.REFUSED_BY_RELAY), "nothing authenticates a status"
    assert str(caught.value) == reason.describe
    assert await theirs.receive_some() == b""  # closed


# --- deadlines, in virtual time


@pytest.mark.parametrize(
    ("route", "behaviour", "purpose", "seconds", "kind"),
    [
        ("tcp", "dropped", Purpose.DATA, 5, FailureKind.DROPPED),
        ("tcp", "stalled", Purpose.DATA, 40, FailureKind.STALLED),
        ("tcp", "stalled", Purpose.CONTROL, 10, FailureKind.STALLED),
        ("tcp", "stalled-tls", Purpose.CONTROL, 10, FailureKind.STALLED),
        ("wss", "dropped", Purpose.DATA, 5, FailureKind.DROPPED),
        ("wss", "stalled", Purpose.DATA, 10, FailureKind.STALLED),
    ],
)
async def test_silence_ends_at_a_deadline(
    route: str,
    behaviour: str,
    purpose: Purpose,
    seconds: float,
    kind: FailureKind,
    network: FakeNetwork,
    transports: dict[str, Transport],
    autojump_clock: trio.testing.MockClock,
) -> None:
    network.behaviours = dict.fromkeys(RIGHT, behaviour)
    candidate = next(Candidate(r, t) for t in transports.values() for r in t.routes if r.name == route)
    began = trio.current_time()
    with pytest.raises(RelayUnreachable) as caught:
        await opener(network, candidate, purpose)()
    assert trio.current_time() - began == pytest.approx(seconds)
    assert caught.value.failure is not None
    assert caught.value.failure.kind is kind
    assert {FailureKind.DROPPED: "dropped", FailureKind.STALLED: "accepted"}[kind] in str(caught.value)
    await network.assert_all_closed()


async def test_the_transports_deadline_begins_when_tcp_is_connected(
    network: FakeNetwork, transports: dict[str, Transport], autojump_clock: trio.testing.MockClock
) -> None:
    network.behaviours = RIGHT
    network.latencies = {443: 4.0}
    transport = transports["websocket"]
    stream = await connect(
        network.endpoint,
        Candidate(transport.routes[0], transport),
        Purpose.DATA,
        dialer=Dialer(network.dial),
        timing=ConnectTiming(4.5, 4.5),
    )
    await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("purpose", [Purpose.DATA, Purpose.CONTROL])
@pytest.mark.parametrize("name", ["tcp", "websocket"])
async def test_cancelled_nothing_stays_open(
    purpose: Purpose,
    name: str,
    network: FakeNetwork,
    transports: dict[str, Transport],
    autojump_clock: trio.testing.MockClock,
) -> None:
    network.behaviours = RIGHT
    network.latencies = dict.fromkeys(RIGHT, 1.0)
    open_it = opener(network, Candidate(transports[name].routes[0], transports[name]), purpose)
    opened = 0
    for tenths in range(60):
        with trio.move_on_after(tenths / 10 + 0.05):
            await (await open_it()).aclose()
            opened += 1
    assert 0 < opened < 60
    await network.assert_all_closed()


async def test_a_port_that_is_off_is_the_callers_mistake(network: FakeNetwork, tcp: Candidate) -> None:
    endpoint = attrs.evolve(network.endpoint, ports={"data": None})
    with pytest.raises(ValueError, match="does not serve port data"):
        await open_channel(endpoint, tcp, Purpose.DATA, ticket=TICKET, dialer=Dialer(network.dial))


# --- endpoints


def test_endpoint_from_a_connection_string(certificates: Certificates, tcp: Candidate) -> None:
    string = parse_connection_string_untrusted(
        "Endpoint=hr://[2001:db8::1]/;SharedAccessKeyName=send;SharedAccessKey=abc;EntityPath=sql;"
        f"RelayPin={certificates.pin};Ports=probe=off,data=1234"
    )
    (endpoint,) = RelayEndpoint.all_from(string)
    assert endpoint.host == "2001:db8::1"
    assert endpoint.pins == (certificates.pin,)
    route = tcp.route
    numbers = {port.name: endpoint.number_of(port) for port in route.ports}
    assert numbers == {"probe": None, "control": 5671, "data": 1234}
    assert endpoint.missing_ports(route) == ("probe",)
    assert RelayEndpoint("x").missing_ports(route) == ()


# --- what is sent first


STRING = "Endpoint=hr://relay.test/;SharedAccessKeyName=send;SharedAccessKey=abc;EntityPath=sql"


@pytest.mark.parametrize("pinned", [True, False])
def test_a_control_channel_begins_with_a_proof_of_the_key(certificates: Certificates, pinned: bool) -> None:
    text = f"{STRING};RelayPin={certificates.pin}" if pinned else STRING
    (endpoint,) = RelayEndpoint.all_from(parse_connection_string_untrusted(text), clock=lambda: 1234.5)
    preamble = decode_preamble_untrusted(endpoint.preamble(Purpose.CONTROL).encode())
    assert preamble == Preamble(Purpose.CONTROL, make_admission_proof(Secret("abc"), 1234.5), by_ca=not pinned)
    another = endpoint.with_key(Secret("xyz"))
    assert another == endpoint
    assert another.addresses is endpoint.addresses
    assert another.preamble(Purpose.CONTROL).credential == make_admission_proof(Secret("xyz"), 1234.5)
    assert "abc" not in repr(endpoint)


def test_nothing_else_begins_with_a_proof() -> None:
    (endpoint,) = RelayEndpoint.all_from(parse_connection_string_untrusted(STRING))
    assert endpoint.preamble(Purpose.PROBE) == Preamble(Purpose.PROBE)
    assert endpoint.preamble(Purpose.DATA) == Preamble(Purpose.DATA)
    assert endpoint.preamble(Purpose.DATA, TICKET) == Preamble(Purpose.DATA, TICKET)
    assert RelayEndpoint("relay.test").preamble(Purpose.CONTROL) == Preamble(Purpose.CONTROL, by_ca=True)


@pytest.mark.parametrize(
    ("host", "pinned", "sent"),
    [
        ("relay.test", True, None),
        ("relay.test", False, "relay.test"),
        ("192.0.2.1", True, None),
        ("192.0.2.1", False, None),
    ],
)
async def test_the_server_name_is_sent_where_no_pin_decides(
    nursery: trio.Nursery, tmp_path: Path, host: str, pinned: bool, sent: str | None
) -> None:
    names: list[str | None] = []
    certificate = load_or_create_relay_certificate(tmp_path, now=time.time())
    context = control_server_context(certificate)
    context.sni_callback = lambda tls, name, context: names.append(name)
    ours, theirs = trio.testing.memory_stream_pair()

    async def serve() -> None:
        with contextlib.suppress(TLSHandshakeError):
            await TLSStream(theirs, context, server_side=True).do_handshake()
        await theirs.aclose()

    nursery.start_soon(serve)
    endpoint = RelayEndpoint(host, pins=(relay_pin(certificate),) if pinned else ())
    if pinned:
        await secure(ours, endpoint, seconds=10)
    else:
        with pytest.raises(StepFailed) as caught:
            await secure(ours, endpoint, seconds=10)
        assert (caught.value.failure.step, caught.value.failure.kind) == (Step.TLS, FailureKind.WRONG_IDENTITY)
    assert names == [sent]


# --- deadlines, whatever a transport does


class Odd(Transport):
    """A transport that dials late, never, or again and again."""

    name = "odd"

    def __init__(self, how: str, route: Route) -> None:
        self.routes = (route,)
        self._how = how

    async def connect(self, address: Address, dialer: Dialer) -> Connection:
        while self._how == "dials again and again":
            stream = await dialer.tcp(address.host, address.port)
            await trio.sleep(1)
            await trio.aclose_forcefully(stream)
        if self._how == "dials late":
            await trio.sleep(14)
            await dialer.tcp(address.host, address.port)
        await trio.sleep_forever()
        raise AssertionError

    async def listen(self, binding: Binding) -> Listener:
        raise NotImplementedError


@pytest.mark.parametrize("how", ["never dials", "dials late", "dials again and again"])
async def test_the_callers_deadline_holds_whatever_the_transport_does(
    how: str, network: FakeNetwork, tcp: Candidate, autojump_clock: trio.testing.MockClock
) -> None:
    network.behaviours.update(RIGHT)
    route = tcp.route
    began = trio.current_time()
    with pytest.raises(StepFailed) as caught:
        await connect(
            network.endpoint, Candidate(route, Odd(how, route)), Purpose.DATA,
            dialer=Dialer(network.dial), timing=ConnectTiming(5, 10),
        )  # fmt: skip
    assert trio.current_time() - began == pytest.approx(15)
    assert (caught.value.failure.step, caught.value.failure.kind) == (Step.TRANSPORT, FailureKind.STALLED)


@pytest.mark.parametrize("reason", [Reason.LISTENER_GONE, Reason.KEY_REVOKED, Reason.IDENTITY_CHANGED])
def test_a_status_for_control_channels_says_nothing_about_the_rendezvous(reason: Reason) -> None:
    assert isinstance(_refusal(reason), RelayUnreachable)
