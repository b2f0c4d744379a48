"""Peers that send arbitrary bytes to the relay's ports: others are served as before, and nothing stays open."""

from __future__ import annotations

import os
import resource
import secrets
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVarTuple

import attrs
import pytest
import trio

from hybridrelay.abc import Purpose
from hybridrelay.connectivity import Candidate, RelayEndpoint, candidates, discover, open_channel, open_control_stream
from hybridrelay.connectivity.instance import new_instance
from hybridrelay.connectivity.link import RelayLink, make_connection_token
from hybridrelay.connectivity.steps import connect
from hybridrelay.mux import CONTROL_CONFIG, Session, SessionRole
from hybridrelay.protocol import control
from hybridrelay.protocol.control_codec import ControlDecoder, encode_message
from hybridrelay.protocol.preamble import (
    PREAMBLE_SIZE,
    PROOF_SIZE,
    STATUS_SIZE,
    TICKET_SIZE,
    Preamble,
    decode_status_untrusted,
)
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import ConnectionString, parse_connection_string_untrusted
from hybridrelay_websocket import PATH, SUBPROTOCOL

from ..deployments import PORT_NAMES, Deployment, Program, free_port
from ..waiting import async_wait_until
from .targets import echo, is_served, serve, steady_echo

Ts = TypeVarTuple("Ts")

#: The relay's deadline for authentication is 15 s. A peer that stays silent for longer is cut off.
CUT_OFF_SECONDS = 40
#: More than the relay has slots for connections that have not authenticated themselves.
FLOOD = 1200


def client_hello() -> bytes:
    """What a TLS client says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="relay.example.com").do_handshake()
    return outgoing.read()


def upgrade(*frames: bytes) -> bytes:
    """A WebSocket handshake, and what comes behind it."""
    lines = [
        f"GET {PATH} HTTP/1.1",
        "Host: relay",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + b"".join(frames)


PREAMBLES = {purpose.name.lower(): Preamble(purpose).encode() for purpose in Purpose}
MASK = bytes(4)

#: Sent inside every transport, and as they are to every port.
INSIDE = {
    "nothing": b"",
    "one byte": b"H",
    "garbage": os.urandom(5000),
    "zeros": bytes(100_000),
    "half a preamble": PREAMBLES["control"][: PREAMBLE_SIZE // 2],
    "a preamble of the future": b"HYRL\x02" + PREAMBLES["control"][5:],
    "an unknown purpose": b"HYRL\x01\x09" + PREAMBLES["control"][6:],
    "a probe without data": PREAMBLES["probe"],
    "a probe with half of its data": PREAMBLES["probe"] + bytes(1000),
    "an invented ticket": Preamble(Purpose.DATA, secrets.token_bytes(TICKET_SIZE)).encode() + os.urandom(1000),
    "a control channel without TLS": PREAMBLES["control"],
    "an invented proof": Preamble(Purpose.CONTROL, secrets.token_bytes(PROOF_SIZE)).encode() + client_hello()[:100],
    "an invented proof with all flags": PREAMBLES["control"][:6] + b"\xff" * 34 + client_hello(),
    "a probe with proof and flags": PREAMBLES["probe"][:6] + b"\xff" * 34 + bytes(1000),
    "a control channel with garbage": PREAMBLES["control"] + os.urandom(5000),
    "a control channel with half a handshake": PREAMBLES["control"] + client_hello()[:100],
    "a control channel with TLS of a wrong version": PREAMBLES["control"]
    + b"\x16\x03\x00\x00\x05\x01\x00\x00\x01\x00",
}
#: Sent to every port as they are.
RAW = {
    **INSIDE,
    "http": b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n",
    "http 0.9": b"GET /\r\n\r\n",
    "half an http head": b"GET / HTTP/1.1\r\nHost: re",
    "an oversize http head": b"GET / HTTP/1.1\r\n" + b"X-Header: %s\r\n" % (b"x" * 1000) * 200,
    "an endless http line": b"GET /" + b"x" * 300_000,
    "a body that never comes": b"POST / HTTP/1.1\r\nHost: relay\r\nContent-Length: 1000000000\r\n\r\n",
    "tls": client_hello(),
    "half of tls": client_hello()[:50],
    "a tls record of 64 KiB": b"\x16\x03\x01\xff\xff" + bytes(70_000),
    "tls, then garbage": client_hello() + os.urandom(2000),
    "an upgrade, then nothing": upgrade(),
    "an upgrade, then garbage": upgrade(os.urandom(2000)),
    "an unmasked frame": upgrade(b"\x82\x05hello"),
    "a frame of 2**62 bytes": upgrade(b"\x82\xff" + struct.pack(">Q", 2**62) + MASK),
    "a frame of a negative length": upgrade(b"\x82\xff" + b"\xff" * 8 + MASK),
    "a text frame": upgrade(b"\x81\x85" + MASK + b"hello"),
    "a reserved opcode": upgrade(b"\x83\x85" + MASK + b"hello"),
    "a fragmented ping": upgrade(b"\x09\x80" + MASK),
    "a ping that is too long": upgrade(b"\x89\xfe\x01\x00" + MASK + bytes(256)),
    "a thousand pings": upgrade(*[b"\x89\x80" + MASK] * 1000),
}


def message(text: str | bytes) -> bytes:
    """A control message, or what looks like one."""
    payload = text.encode() if isinstance(text, str) else text
    return struct.pack(">I", len(payload)) + payload


HELLO = encode_message(control.Hello(control.PeerRole.CLIENT, "0" * 32, 1, "test"))
#: Sent on the control stream, before the peer has shown a token.
CONTROL_MESSAGES = {
    "nothing": b"",
    "half a length": b"\x00\x00",
    "an endless message": b"\xff\xff\xff\xff" + bytes(1000),
    "an empty message": message(""),
    "no JSON": message("hello"),
    "no text": message(b"\xff\xfe\xfd"),
    "no object": message("[]"),
    "no type": message("{}"),
    "a deep message": message("[" * 8000),
    "a huge number": message('{"type": "join", "id": 1' + "0" * 5000 + "}"),
    "join before hello": encode_message(control.Join(1, "x", "SharedAccessSignature x")),
    "hello twice": HELLO * 2,
    "a message of the other side": HELLO + message('{"type": "welcome", "relay_instance": "x", "software": "x"}'),
    "hello, then nothing": HELLO,
    "tokens that are wrong": HELLO
    + b"".join(encode_message(control.Join(n, "hostile", "SharedAccessSignature sr=x")) for n in range(1, 200)),
}
#: Sent by a peer with a good key.
LATE_MESSAGES = {name: CONTROL_MESSAGES[name] for name in ("an endless message", "no JSON", "a deep message")} | {
    "a message of the other side": message('{"type": "welcome", "relay_instance": "x", "software": "x"}'),
    "hello again": HELLO,
    "an answer to nothing": encode_message(control.Accept(77)),
    "garbage": os.urandom(100_000),
}
#: Answers and withdrawals cross: from a connector the relay has to take an answer to an offer that it has forgotten.
NO_ATTACK = (control.PeerRole.CONNECTOR, "an answer to nothing")


@attrs.frozen
class Site:
    """What is attacked."""

    deployment: Deployment
    endpoint: RelayEndpoint
    #: The string of an application of the hybrid connection that is in use.
    application: ConnectionString
    #: The strings of a hybrid connection that only the attacker uses, by role.
    unused: Mapping[control.PeerRole, ConnectionString]


async def cut_off(stream: trio.abc.ReceiveStream) -> None:
    """Wait until the relay has had enough of us."""
    with suppress(trio.BrokenResourceError):
        async for _ in stream:
            pass


async def say(stream: trio.abc.Stream, data: bytes) -> None:
    """Send, as far as the other side lets us."""
    with suppress(trio.BrokenResourceError):
        await stream.send_all(data)


async def attack_port(site: Site, port: str, data: bytes) -> None:
    """Bytes as they are."""
    async with await trio.open_tcp_stream("127.0.0.1", site.deployment.ports[port]) as stream:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, stream, data)
            await cut_off(stream)


async def attack_transport(site: Site, candidate: Candidate, purpose: Purpose, data: bytes) -> None:
    """Bytes inside a transport that is used as it should be."""
    stream = await connect(site.endpoint, candidate, purpose)
    async with stream:
        await say(stream, data)
        await cut_off(stream)


async def attack_session(site: Site, candidate: Candidate, data: bytes) -> None:
    """TLS as it should be, and then no session."""
    async with await open_control_stream(site.endpoint, candidate) as stream:
        await say(stream, data)
        await cut_off(stream)


@asynccontextmanager
async def control_session(site: Site, candidate: Candidate) -> AsyncIterator[Session]:
    tls = await open_control_stream(site.endpoint, candidate)
    session = Session.create(SessionRole.INITIATOR, config=CONTROL_CONFIG)
    async with trio.open_nursery() as nursery:
        await nursery.start(session.run, tls)
        yield session
        nursery.cancel_scope.cancel()


async def attack_control(site: Site, candidate: Candidate, data: bytes) -> None:
    """A session as it should be, and nonsense on its stream."""
    async with control_session(site, candidate) as session:
        stream = session.open_stream_nowait()
        await say(stream, data)
        await cut_off(stream)


async def attack_with_a_key(site: Site, candidate: Candidate, role: control.PeerRole, data: bytes) -> None:
    """A peer with a valid key that sends invalid messages after the relay has accepted it."""
    string = site.unused[role]
    async with control_session(site, candidate) as session:
        stream = session.open_stream_nowait()
        instance = new_instance()
        hello = control.Hello(role, instance.id, 1, "test", instance.secret)
        token = make_connection_token(string, string.hosts[0], time.time())
        request = control.Join if role is control.PeerRole.CLIENT else control.Register
        await say(stream, encode_message(hello))
        await say(stream, encode_message(request(1, string.entity_path, token)))
        decoder = ControlDecoder()
        answers: list[object] = []
        while len(answers) < 2:
            answers += decoder.receive_data_untrusted(await stream.receive_some())
        assert isinstance(answers[1], control.Registered | control.Joined | control.Failed)
        await say(stream, data)
        await cut_off(stream)


async def attack_the_connector(site: Site, candidate: Candidate, data: bytes) -> None:
    """Somebody with a good key but no identity reaches the connector, and talks nonsense to it."""
    link = RelayLink(site.endpoint, control.PeerRole.CLIENT, instance=new_instance(), mode=candidate.transport.name)
    async with trio.open_nursery() as nursery:
        channel = await link.start_control(nursery)
        token = make_connection_token(site.application, site.endpoint.host, time.time())
        answer = await channel.join(control.Join(1, site.application.entity_path, token))
        assert isinstance(answer, control.Joined)
        stream = await open_channel(site.endpoint, candidate, Purpose.DATA, ticket=answer.ticket)
        async with stream:
            await say(stream, data)
            await cut_off(stream)
        nursery.cancel_scope.cancel()


async def assert_ticket_is_refused(site: Site, candidate: Candidate) -> None:
    """What a guesser learns: the relay did not make this ticket."""
    stream = await connect(site.endpoint, candidate, Purpose.DATA)
    async with stream:
        await stream.send_all(Preamble(Purpose.DATA, secrets.token_bytes(TICKET_SIZE)).encode())
        answer = b"".join([bytes(data) async for data in stream])
    assert len(answer) == STATUS_SIZE
    assert decode_status_untrusted(answer) in (Reason.TICKET_UNKNOWN, Reason.TICKET_OF_ANOTHER_RELAY)


def attacks(site: Site) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
    """All of them, with names."""
    found: list[tuple[str, Callable[[], Awaitable[None]]]] = []

    def add(name: str, attack: Callable[[Site, *Ts], Awaitable[None]], *arguments: *Ts) -> None:
        found.append((name, lambda: attack(site, *arguments)))

    for port in PORT_NAMES:
        for name, data in RAW.items():
            add(f"{port}: {name}", attack_port, port, data)
    for candidate in candidates(discover()):
        route = candidate.route.name
        add(f"{route}: a ticket", assert_ticket_is_refused, candidate)
        for purpose in Purpose:
            for name, data in INSIDE.items():
                add(f"{route}, {purpose.name}: {name}", attack_transport, candidate, purpose, data)
        for name, data in (("nothing", b""), ("garbage", os.urandom(1000)), ("zeros", bytes(10_000))):
            add(f"{route}, session: {name}", attack_session, candidate, data)
            add(f"{route}, connector: {name}", attack_the_connector, candidate, data)
        for name, data in CONTROL_MESSAGES.items():
            add(f"{route}, control: {name}", attack_control, candidate, data)
        for role in site.unused:
            for name, data in LATE_MESSAGES.items():
                if (role, name) != NO_ATTACK:
                    add(f"{route}, {role}: {name}", attack_with_a_key, candidate, role, data)
    return found


#: The attackers share two cores with what they attack.
ATTACKS_AT_ONCE = 100


async def run_attacks(attacks: Sequence[tuple[str, Callable[[], Awaitable[None]]]]) -> None:
    """Many at the same time; each has to be over in time. Attackers that are slow themselves would prove nothing."""
    limit = trio.CapacityLimiter(ATTACKS_AT_ONCE)

    async def run(name: str, attack: Callable[[], Awaitable[None]]) -> None:
        try:
            async with limit:
                with trio.fail_after(CUT_OFF_SECONDS):
                    await attack()
        except BaseException as exc:
            exc.add_note(f"during the attack {name!r}")
            raise

    async with trio.open_nursery() as nursery:
        for name, attack in attacks:
            nursery.start_soon(run, name, attack)


def load(file: Path) -> ConnectionString:
    return parse_connection_string_untrusted(file.read_text())


async def wait_for_sockets(program: Program, before: int) -> None:
    async def as_before() -> bool:
        return program.sockets <= before

    await async_wait_until(as_before, seconds=CUT_OFF_SECONDS, what=f"{program.name} closes what it opened")


async def test_honest_connections_work_during_hundreds_of_attacks(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    """Hundreds of attacks at the same time, while honest connections exchange data over every transport."""
    relay = deployment.programs[0]
    published = deployment.create("hostile", await serve(nursery, echo))
    connector = deployment.start_connector(published)
    forwards = [deployment.start_forward(published, mode=mode) for mode in ("tcp", "websocket")]
    application = load(published.application)
    unused = deployment.create("unused", ("127.0.0.1", free_port()))
    strings = {control.PeerRole.CLIENT: load(unused.application), control.PeerRole.CONNECTOR: load(unused.connector)}
    site = Site(deployment, RelayEndpoint.all_from(application)[0], application, strings)
    async with steady_echo(forwards[0].port) as tcp, steady_echo(forwards[1].port) as websocket:
        before = {program.pid: program.sockets for program in (relay, connector)}
        await run_attacks(attacks(site))
        await tcp()
        await websocket()
        for program in (relay, connector):
            await wait_for_sockets(program, before[program.pid])
            assert program.process.poll() is None
    for forward in forwards:
        assert await is_served(forward.port)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("descriptors", [None, 400], ids=["many descriptors", "few descriptors"])
async def test_a_flood_of_silent_connections(tmp_path: Path, nursery: trio.Nursery, descriptors: int | None) -> None:
    """They take all slots. A forward that connects afterwards is still served, and open streams go on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * FLOOD)), hard))
    with Deployment(tmp_path) as deployment:
        relay = deployment.start_relay(descriptors=descriptors)
        await flood_silently(deployment, relay, nursery)
    nursery.cancel_scope.cancel()


async def flood_silently(deployment: Deployment, relay: Program, nursery: trio.Nursery) -> None:
    published = deployment.create("flood", await serve(nursery, echo))
    deployment.start_connector(published)
    forward = deployment.start_forward(published)
    async with steady_echo(forward.port) as honest:
        before = relay.sockets
        silent = [
            await trio.open_tcp_stream("127.0.0.1", deployment.ports[PORT_NAMES[n % len(PORT_NAMES)]])
            for n in range(FLOOD)
        ]
        await honest()
        late = await trio.to_thread.run_sync(partial(deployment.start_forward, published, mode="websocket"))
        assert await is_served(late.port)
        for stream in silent:
            await trio.aclose_forcefully(stream)
        late.program.terminate()
        await wait_for_sockets(relay, before)
        await honest()
