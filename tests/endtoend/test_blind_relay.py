"""The relay is blind: an observer of everything that it handles sees no plaintext."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from hybridrelay.abc import Address, Binding, Connection, Dialer, Listener, Transport
from hybridrelay.client import ClientConfig, open_client
from hybridrelay.connectivity import discover
from hybridrelay.connector import ConnectorConfig, run_connector
from hybridrelay.relay import RelayConfig, SQLiteStore, run_relay
from hybridrelay.security import ConnectionString, Endpoint, HostPort, Right, Role, Rule, create_authority
from hybridrelay.streams.listening import StreamListener

from ..deployments import PORT_NAMES
from ..keys import key_of
from ..receiving import receive_all
from ..wrapped_streams import WrappedHalfCloseableStream
from .targets import serve

MARKER = os.urandom(64)
#: Long enough that none of them turns up in 20 MB of ciphertext by chance.
CHUNK_BYTES = 8
REPEATED = 20_000


class Tape:
    """Everything that went through the relay's hands."""

    def __init__(self) -> None:
        self.read = bytearray()
        self.written = bytearray()


class ObservedStream(WrappedHalfCloseableStream):
    """Keeps a copy of what passes. It is not a socket, so that the pump cannot leave the bytes to the kernel."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, tape: Tape) -> None:
        super().__init__(stream)
        self._tape = tape

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._tape.written += data
        await super().send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await super().receive_some(max_bytes)
        self._tape.read += data
        return data


class ObservedTransport(Transport):
    """A transport at whose relay's end somebody listens: inside the outer TLS, where there is one."""

    def __init__(self, transport: Transport, tape: Tape) -> None:
        self.name = transport.name
        self.routes = transport.routes
        self._transport = transport
        self._tape = tape

    async def connect(self, address: Address, dialer: Dialer) -> Connection:
        raise AssertionError("the relay dials nobody")

    async def listen(self, binding: Binding) -> Listener:
        listener = await self._transport.listen(binding)
        assert isinstance(listener, StreamListener)

        async def handshake(stream: trio.abc.Stream) -> trio.abc.HalfCloseableStream | None:
            accepted = await listener.incoming(stream, "").handshake()
            return None if accepted is None else ObservedStream(accepted.stream, self._tape)

        return StreamListener(listener.acceptors, handshake)


def traces(secret: bytes) -> Iterator[bytes]:
    """What a secret might look like: as it is, reversed, or as text; whole or cut anywhere."""
    for form in (secret, secret[::-1]):
        yield from (form[start : start + CHUNK_BYTES] for start in range(len(form) - CHUNK_BYTES + 1))
        yield form.hex().encode()
        # By its three alignments, without the characters that depend on the neighbours.
        yield from (base64.b64encode(form[offset:])[4:20] for offset in range(3))


def test_traces_are_found() -> None:
    for form in (MARKER, MARKER[::-1], MARKER[5:40], base64.b64encode(b"x" + MARKER), MARKER.hex().encode()):
        assert any(trace in b"before" + form + b"after" for trace in traces(MARKER))


async def test_the_relay_never_handles_plaintext(tmp_path: Path, nursery: trio.Nursery, mode: str) -> None:
    tape = Tape()
    received: list[bytes] = []
    request = MARKER * REPEATED
    reply = MARKER[::-1] * REPEATED

    async def target(stream: trio.SocketStream) -> None:
        received.append(await receive_all(stream))
        await stream.send_all(reply)
        await stream.send_eof()

    address = await serve(nursery, target)
    transports = {name: ObservedTransport(transport, tape) for name, transport in discover().items()}
    config = RelayConfig(
        state_dir=tmp_path / "state", bindings={name: (Binding("127.0.0.1", 0),) for name in PORT_NAMES}
    )
    rules = Rule.generate("listen", [Right.LISTEN]), Rule.generate("send", [Right.SEND])
    with SQLiteStore.open(config.state_dir) as registry:
        registry.create("blind", ["127.0.0.1"], rules)
    relay = await nursery.start(partial(run_relay, config, transports=transports))
    authority = create_authority("blind", now=time.time())
    identities = {role: authority.issue(role, "test", now=time.time()) for role in (Role.CONNECTOR, Role.APPLICATION)}

    endpoints = (Endpoint("127.0.0.1", {name: bindings[0].port for name, bindings in relay.bound.items()}),)

    def string(role: Role, rule: Rule, target: HostPort | None) -> ConnectionString:
        return ConnectionString(
            endpoints=endpoints, key_name=rule.name, key=key_of(rule), entity_path="blind", target=target,
            identity=identities[role], authority=authority.certificate, relay_pins=(relay.pin,),
        )  # fmt: skip

    connector = string(Role.CONNECTOR, rules[0], HostPort(*address))
    application = string(Role.APPLICATION, rules[1], None)
    await nursery.start(run_connector, ConnectorConfig([connector], mode=mode))
    async with open_client(ClientConfig(application, mode=mode)) as client, await client.open_stream() as stream:
        async with trio.open_nursery() as inner:

            async def send() -> None:
                await stream.send_all(request)
                await stream.send_eof()

            inner.start_soon(send)
            assert await receive_all(stream) == reply
    assert received == [request]

    moved = len(request) + len(reply)
    assert len(tape.read) > moved, "the observer was there"
    assert len(tape.written) > moved, "the observer was there"
    secrets = {"the data": MARKER}
    for name, rule in (("the listen key", rules[0]), ("the send key", rules[1])):
        assert rule.primary is not None
        secrets[name] = rule.primary.reveal().encode()
    for role, identity in identities.items():
        secrets[f"the private key of the {role.name.lower()}"] = identity.private_key.reveal().encode()
    for what, secret in secrets.items():
        for trace in traces(secret):
            for handled in (tape.read, tape.written):
                if trace in handled:
                    pytest.fail(f"the relay has seen a piece of {what}")
    nursery.cancel_scope.cancel()
