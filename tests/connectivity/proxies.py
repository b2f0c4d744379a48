"""Scripted proxies for these tests: some in memory, others with sockets that connect to real targets."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from hybridrelay.connectivity import (
    Failure,
    Proxy,
    ProxyAnswer,
    ProxyAuthenticator,
    ProxyDial,
    ProxyError,
    ProxySettings,
)
from hybridrelay.connectivity.proxies.authentication import basic_authentication
from hybridrelay.errors import TransportError
from hybridrelay.streams import TLSStream, receive_exactly

Script = Callable[[trio.abc.HalfCloseableStream], Awaitable[None]]


class ScriptedProxy:
    """A proxy in memory. The nth of `scripts` handles the nth connection, and the last one all further ones."""

    def __init__(self, nursery: trio.Nursery, *scripts: Script) -> None:
        self._nursery = nursery
        self._scripts = list(scripts)
        #: Where each connection went, and our end of it.
        self.dialed: list[tuple[str, int]] = []
        self.ours: list[trio.abc.HalfCloseableStream] = []

    async def dial(self, host: str, port: int) -> trio.abc.HalfCloseableStream:
        await trio.lowlevel.checkpoint()
        script = self._scripts[min(len(self.dialed), len(self._scripts) - 1)]
        self.dialed.append((host, port))
        ours, theirs = trio.testing.memory_stream_pair()
        self.ours.append(ours)

        async def serve() -> None:
            async with theirs:
                with contextlib.suppress(trio.BrokenResourceError):
                    await script(theirs)

        self._nursery.start_soon(serve)
        return ours

    def through(
        self, url: str = "http://proxy.corp:3128", authenticator: ProxyAuthenticator = basic_authentication
    ) -> ProxyDial:
        settings = ProxySettings(Proxy.parse_untrusted(url))
        return ProxyDial(settings, authenticator=authenticator, dial=self.dial)

    async def assert_all_closed(self) -> None:
        for stream in self.ours:
            with contextlib.suppress(trio.ClosedResourceError):
                await stream.send_all(b"x")
                raise AssertionError("a connection to the proxy is still open")


def saying(answer: bytes, *, then: Script | None = None, heads: list[str] | None = None) -> Script:
    """An HTTP proxy that reads one head, gives this answer, and goes on with `then` (or closes)."""

    async def script(stream: trio.abc.HalfCloseableStream) -> None:
        head = await read_head(stream)
        if heads is not None:
            heads.append(head)
        await stream.send_all(answer)
        if then is not None:
            await then(stream)

    return script


async def read_head(stream: trio.abc.ReceiveStream) -> str:
    """An HTTP head, and not a byte more."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        head += await receive_exactly(stream, 1)
    return head.decode("latin-1")


async def echo(stream: trio.abc.HalfCloseableStream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


async def silence(stream: trio.abc.HalfCloseableStream) -> None:
    await trio.sleep_forever()


async def assert_echoes(stream: trio.abc.Stream, expected: bytes = b"") -> None:
    await stream.send_all(b"hello")
    received = b""
    while len(received) < len(expected) + 5:
        received += await stream.receive_some()
    assert received == expected + b"hello"


async def fail(
    proxy: ScriptedProxy,
    url: str = "http://proxy.corp:3128",
    authenticator: ProxyAuthenticator = basic_authentication,
) -> Failure:
    """Dial through the proxy, which has to fail. Returns the failure. Checks that nothing stays open."""
    with pytest.raises(ProxyError) as caught:
        await proxy.through(url, authenticator)("relay.example.com", 9350)
    await proxy.assert_all_closed()
    failure = caught.value.failure
    assert "hunter2" not in f"{failure} {caught.value!r} {caught.value.__cause__!r}"
    return failure


def ticket_authenticator(proxy: Proxy, *, seen: list[list[str]], rounds: int = 2) -> ProxyAnswer:
    """Like Negotiate: each answer is made from the last challenge."""
    assert proxy.host == "proxy.corp"
    number = 0

    async def answer(challenges: Sequence[str]) -> str | None:
        nonlocal number
        await trio.lowlevel.checkpoint()
        seen.append(list(challenges))
        if not challenges:
            return None
        number += 1
        return f"Ticket {number}" if number <= rounds else None

    return answer


# --- over sockets


@attrs.define
class ConnectProxy:
    """A CONNECT proxy with a table of host names of its own, which keeps the heads of the requests."""

    port: int
    heads: list[str] = attrs.field(factory=list)

    @property
    def targets(self) -> list[str]:
        """What was asked for, in order."""
        return [head.split()[1] for head in self.heads]


async def start_connect_proxy(
    nursery: trio.Nursery,
    *,
    names: dict[str, str] | None = None,
    refused_ports: Sequence[int] = (),
    context: ssl.SSLContext | None = None,
) -> ConnectProxy:
    """Start it on 127.0.0.1; `context` makes it an ``https://`` one."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy = ConnectProxy(listeners[0].socket.getsockname()[1])

    async def serve(socket: trio.SocketStream) -> None:
        stream: trio.abc.Stream = socket
        async with socket:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError, TransportError):
                if context is not None:
                    stream = TLSStream(socket, context, server_side=True)
                    await stream.do_handshake()
                head = await read_head(stream)
                proxy.heads.append(head)
                host, _, port = head.split()[1].rpartition(":")
                if int(port) in refused_ports:
                    await stream.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                    return
                async with await trio.open_tcp_stream((names or {}).get(host, host), int(port)) as onward:
                    await stream.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    await join(stream, onward)

    nursery.start_soon(partial(trio.serve_listeners, serve, listeners))
    return proxy


async def join(one: trio.abc.Stream, other: trio.abc.Stream) -> None:
    """Move bytes both ways until one side ends."""
    async with trio.open_nursery() as nursery:

        async def move(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while data := await source.receive_some():
                    await sink.send_all(data)
            nursery.cancel_scope.cancel()

        nursery.start_soon(move, one, other)
        nursery.start_soon(move, other, one)


def make_certificate(path: Path, host: str) -> Path:
    """A self-signed certificate for this name or address, and its key, in one file."""
    now = dt.datetime.now(dt.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        alternative = x509.DNSName(host)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return path
