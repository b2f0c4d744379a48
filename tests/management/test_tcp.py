"""The management API over TCP: TLS, names, client certificates, and clients that mean harm."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay import _listening
from hybridrelay.errors import ConfigurationError
from hybridrelay.events import (
    Event,
    EventStream,
    ManagementCalled,
    ManagementCallRefused,
    ManagementClosed,
    ManagementListening,
)
from hybridrelay.management import Caller, Credentials, ManagementTcp, TcpOptions, serve_management
from hybridrelay.management.peers import caller_of_certificate
from hybridrelay.management.plugins import load_authenticators
from hybridrelay.relay import RelayInfo, SQLiteStore
from hybridrelay.security import ManagementRole, generate_management_token, relay_pin
from hybridrelay.streams.unix_sockets import connect_unix_socket

from ..certificates import CertificateAuthority
from ..http.serving import Client
from ..waiting import async_wait_until, patience
from .live import FakeRelay

CONNECTIONS = "/v1/hybridConnections"
AUTHORITY = CertificateAuthority()
LOOPBACK = TcpOptions(addresses=[("127.0.0.1", 0)])


@attrs.define
class Served:
    """A relay's management API that runs."""

    state: Path
    tcp: ManagementTcp
    stop: trio.Event
    port: int
    events: list[Event]
    token: str

    async def ask(
        self,
        path: str = "/v1/relay",
        *,
        method: str = "GET",
        token: str | None = None,
        host: str = "127.0.0.1",
        context: ssl.SSLContext | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request over a new connection."""
        return await trio.to_thread.run_sync(
            self._ask, path, method, self.token if token is None else token, host, context
        )

    def _ask(
        self, path: str, method: str, token: str, host: str, context: ssl.SSLContext | None
    ) -> tuple[int, dict[str, str], bytes]:
        connection: http.client.HTTPConnection
        if context is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        else:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)
        with contextlib.closing(connection):
            headers = {"Host": host} | ({"Authorization": f"Bearer {token}"} if token else {})
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response.status, {key.lower(): value for key, value in response.headers.items()}, response.read()


@asynccontextmanager
async def served(state: Path, options: TcpOptions = LOOPBACK) -> AsyncIterator[Served]:
    """Serve the API on the socket and at a free port."""
    events: list[Event] = []
    stream, stop = EventStream(events.append), trio.Event()
    with SQLiteStore.open(state) as store:
        token, text = generate_management_token("ci", ManagementRole.ADMIN, now=store.get("orders").created_at)
        store.add_token(token)
    tcp = ManagementTcp(options, authenticators=(), events=stream)
    async with trio.open_nursery() as nursery:
        serve = partial(
            serve_management, state, lambda: RelayInfo({}, "pin"), FakeRelay(), stop=stop, tcp=tcp, events=stream
        )
        await nursery.start(serve)
        port = 0
        if options.addresses:
            (listening,) = (event for event in events if isinstance(event, ManagementListening))
            host, _, number = listening.address.rpartition(":")
            assert host == "127.0.0.1"
            port = int(number)
        yield Served(state, tcp, stop, port, events, text.reveal())
        stop.set()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    with SQLiteStore.open(tmp_path / "state") as store:
        store.create("orders", ["relay.example.com"], [])
    return tmp_path / "state"


@attrs.frozen
class Files:
    """Certificates of a server and of a client's authority."""

    directory: Path

    def __attrs_post_init__(self) -> None:
        AUTHORITY.write(self.directory / "ca.pem")
        self.renew()

    def renew(self) -> str:
        """Write another certificate; its pin."""
        certificate, key = AUTHORITY.issue("127.0.0.1", "relay.example.com")
        (self.directory / "key.pem").write_bytes(key)
        (self.directory / "certificate.pem").write_bytes(certificate)
        return relay_pin(self.directory / "certificate.pem")

    @property
    def options(self) -> TcpOptions:
        """With TLS."""
        certificate, key = self.directory / "certificate.pem", self.directory / "key.pem"
        return attrs.evolve(LOOPBACK, certificate=certificate, key=key)

    def context(
        self, *, units: Sequence[str] | None = None, authority: CertificateAuthority = AUTHORITY
    ) -> ssl.SSLContext:
        """A client's context; with a certificate if `units` are given."""
        context = ssl.create_default_context(cafile=str(self.directory / "ca.pem"))
        if units is not None:
            certificate, key = authority.issue("client", common_name="ann", units=units)
            path = self.directory / "client.pem"
            path.write_bytes(certificate + key)
            context.load_cert_chain(path)
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "tls").mkdir()
    return Files(tmp_path / "tls")


async def test_a_token_is_needed(state: Path) -> None:
    async with served(state) as relay:
        assert (await relay.ask())[0] == 200
        status, headers, body = await relay.ask(token="")
        assert status == 401
        assert json.loads(body)["requestId"] == headers["request-id"]
        assert (await relay.ask(f"{CONNECTIONS}/orders", method="DELETE", token="wrong"))[0] == 401
        assert (await relay.ask(f"{CONNECTIONS}/orders", method="DELETE"))[0] == 204
    audited = [event for event in relay.events if isinstance(event, (ManagementCalled, ManagementCallRefused))]
    assert [(type(event), event.status, event.peer) for event in audited] == [
        (ManagementCallRefused, 401, "127.0.0.1"),
        (ManagementCalled, 204, "127.0.0.1"),
    ]


async def test_a_revoked_token_is_refused_at_once_and_its_last_use_is_kept(state: Path) -> None:
    async with served(state) as relay:
        assert (await relay.ask())[0] == 200
        relay.stop.set()
    with SQLiteStore.open(state) as store:
        (token,) = store.tokens()
        assert token.last_used_at is not None
    async with served(_other(state)) as relay:
        with SQLiteStore.open(relay.state) as store:
            store.delete_token(store.tokens()[0].id)
        assert (await relay.ask())[0] == 401


def _other(state: Path) -> Path:
    other = state.with_name("other")
    with SQLiteStore.open(other) as store:
        store.create("orders", ["relay.example.com"], [])
    return other


async def test_names_that_are_not_the_relays_are_refused(state: Path) -> None:
    async with served(state, attrs.evolve(LOOPBACK, hosts=["admin.example.org"])) as relay:
        for host, expected in (
            ("127.0.0.1", 200),
            ("localhost:80", 200),
            ("admin.example.org", 200),
            ("evil.example", 421),
            ("", 421),
        ):
            status, _, body = await relay.ask(host=host)
            assert status == expected, host
        assert "--management-host" in json.loads(body)["remedy"]


async def test_tls_and_the_names_in_its_certificate(state: Path, files: Files) -> None:
    async with served(state, files.options) as relay:
        for host, expected in (("relay.example.com", 200), ("evil.example", 421)):
            assert (await relay.ask(host=host, context=files.context()))[0] == expected
        with pytest.raises(OSError):  # plain HTTP
            await relay.ask()


async def test_a_renewed_certificate_is_used(state: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def pin(port: int) -> str:
        text = ssl.get_server_certificate(("127.0.0.1", port))
        (files.directory / "seen.pem").write_text(text)
        return relay_pin(files.directory / "seen.pem")

    async def problems(relay: Served, files: Files) -> list[str]:
        found = json.loads((await relay.ask(context=files.context()))[2])["problems"]
        return [one["code"] for one in found if one["code"] != "no-listener"]

    async with served(state, files.options) as relay:
        before = await trio.to_thread.run_sync(pin, relay.port)
        renewed = files.renew()
        assert await relay.tcp.reload()
        assert await trio.to_thread.run_sync(pin, relay.port) == renewed != before
        (files.directory / "key.pem").write_text("broken")
        with pytest.raises(ConfigurationError):
            await relay.tcp.reload()
        assert await trio.to_thread.run_sync(pin, relay.port) == renewed
        assert await problems(relay, files) == ["certificate-not-renewed"]
        files.renew()
        assert await relay.tcp.reload()
        assert await problems(relay, files) == []
    monkeypatch.setattr("hybridrelay.relay.edge.renewal.POLL_SECONDS", 0.01)
    files.renew()
    async with served(_other(state), files.options) as relay:
        renewed = files.renew()

        async def is_used() -> bool:
            return await trio.to_thread.run_sync(pin, relay.port) == renewed

        await async_wait_until(is_used, seconds=20, what="the renewed certificate")


async def test_a_client_certificate_gives_the_role_of_its_unit(state: Path, files: Files) -> None:
    async with served(state, attrs.evolve(files.options, client_ca=files.directory / "ca.pem")) as relay:
        viewer, admin = files.context(units=["viewer"]), files.context(units=["admin"])
        path = f"{CONNECTIONS}/orders"
        assert (await relay.ask(path, token="", context=viewer))[0] == 200
        assert (await relay.ask(path, method="DELETE", token="", context=viewer))[0] == 403
        for units, has in (([], "no OUs"), (["root"], "the OU 'root'"), (["admin", "viewer"], "2 OUs")):
            status, _, body = await relay.ask(path, token="", context=files.context(units=units))
            problem = json.loads(body)
            assert status == 401
            assert has in problem["detail"]
            assert "viewer, operator, admin" in problem["remedy"]
        assert (await relay.ask(path, token="", context=files.context()))[0] == 401
        assert (await relay.ask(path, context=files.context()))[0] == 200
        with pytest.raises(OSError):
            await relay.ask(path, token="", context=files.context(units=["admin"], authority=CertificateAuthority()))
        assert (await relay.ask(path, method="DELETE", token="", context=admin))[0] == 204
    audited = [event for event in relay.events if isinstance(event, ManagementCalled)]
    assert [(event.caller.rsplit(" ", 1)[0], event.role, event.status) for event in audited] == [
        ("certificate ann", "viewer", 403),
        ("certificate ann", "admin", 204),
    ]


@pytest.mark.parametrize("change", ["another CA", "no CA", "the same CA", "one more CA"])
async def test_who_has_connected_with_a_certificate_of_an_earlier_ca_has_no_access(
    state: Path, files: Files, change: str
) -> None:
    """Over a connection that was opened before the CA was replaced."""
    options = attrs.evolve(files.options, client_ca=files.directory / "ca.pem")
    request = f"GET {CONNECTIONS}/orders HTTP/1.1\r\nHost: relay.example.com\r\n\r\n".encode()

    async def status(stream: trio.SSLStream[trio.SocketStream]) -> bytes:
        await stream.send_all(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await stream.receive_some()
        head, _, body = answer.partition(b"\r\n\r\n")
        (length,) = re.findall(rb"(?i)content-length: (\d+)", head)
        while len(body) < int(length):
            body += await stream.receive_some()
        return head.split()[1]

    async with served(state, options) as relay:
        plain = await trio.open_tcp_stream("127.0.0.1", relay.port)
        stream = trio.SSLStream(plain, files.context(units=["admin"]), server_hostname="relay.example.com")
        assert await status(stream) == b"200"
        if change == "no CA":
            await relay.tcp.change(files.options)
        elif change == "another CA":
            CertificateAuthority().write(files.directory / "ca.pem")
            assert await relay.tcp.reload()
        elif change == "one more CA":
            known = (files.directory / "ca.pem").read_text()
            another = CertificateAuthority().write(files.directory / "another.pem").read_text()
            (files.directory / "ca.pem").write_text(known + another)
            assert await relay.tcp.reload()
        else:
            files.renew()
            assert await relay.tcp.reload()
        stays = "more" in change or "same" in change
        assert await status(stream) == (b"200" if stays else b"401")
        if not stays:
            with trio.fail_after(60):
                assert await stream.receive_some() == b"", "it is closed"
        await trio.aclose_forcefully(stream)


async def test_client_certificates_need_tls_1_3(state: Path, files: Files) -> None:
    """In TLS 1.2, everybody on the way can read the client's certificate. Without them, TLS 1.2 is possible."""
    for where, client_ca, is_possible in (
        (state, None, True),
        (_other(state), files.directory / "ca.pem", False),
    ):
        context = files.context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        async with served(where, attrs.evolve(files.options, client_ca=client_ca)) as relay:
            if is_possible:
                assert (await relay.ask(context=context))[0] == 200
            else:
                with pytest.raises(ssl.SSLError):
                    await relay.ask(context=context)
            assert (await relay.ask(context=files.context()))[0] == 200


def test_what_a_certificate_says() -> None:
    def subject(*parts: tuple[str, str]) -> dict[str, object]:
        return {
            "subject": tuple((part,) for part in parts),
            "notAfter": "Jan  1 00:00:00 2030 GMT",
            "serialNumber": "0A",
        }

    unit, name = ("organizationalUnitName", "operator"), ("commonName", "ann")
    caller, expires_at, refusal = caller_of_certificate(subject(name, unit))
    assert (caller, refusal) == (Caller("certificate", "ann 0A", ManagementRole.OPERATOR), None)
    assert expires_at == 1893456000
    roles = "one OU, the role: viewer, operator, admin"
    for parts, has, remedy in (
        ([name], "no OUs", roles),
        ([unit], "no common names", "one common name"),
        ([name, unit, unit], "2 OUs", roles),
        ([name, name, unit], "2 common names", "one common name"),
        ([name, (unit[0], "Admin")], "the OU 'Admin', which is not a role", roles),
        ([name, (unit[0], "\x1b" * 1000)], f"the OU {chr(27) * 64!r}, which is not a role", roles),
        ([(name[0], "\n"), unit], "a common name with unprintable characters", "one common name"),
    ):
        caller, expires_at, refusal = caller_of_certificate(subject(*parts))
        assert (caller, expires_at) == (None, None)
        assert refusal is not None
        assert refusal.detail == f"the client certificate has {has}"
        assert remedy in refusal.remedy


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "relay.example.com"])
def test_off_loopback_tls_is_demanded(host: str) -> None:
    with pytest.raises(ConfigurationError, match="needs TLS") as raised:
        TcpOptions(addresses=[("127.0.0.1", 0), (host, 0)])
    assert "--management-tls-certificate" in str(raised.value.remedy)
    TcpOptions(addresses=[("127.0.0.1", 0), ("::1", 0), ("localhost", 0)])
    TcpOptions(addresses=[(host, 0)], certificate=Path("x"))


def test_options_that_need_a_certificate(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="key for the management API needs a certificate"):
        TcpOptions(addresses=[], key=tmp_path)
    with pytest.raises(ConfigurationError, match="client CA for the management API needs a certificate"):
        TcpOptions(addresses=[], client_ca=tmp_path)


async def test_an_address_that_is_taken_is_an_error_at_start(state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        tcp = ManagementTcp(TcpOptions(addresses=[taken.getsockname()]), authenticators=(), events=EventStream())
        with pytest.raises(ConfigurationError, match="cannot listen on"):
            await serve_management(
                state, lambda: RelayInfo({}, ""), FakeRelay(), stop=trio.Event(), tcp=tcp, events=EventStream()
            )
    assert not (state / "management.sock").exists()


async def test_other_addresses_and_a_first_certificate_while_it_serves(state: Path, tmp_path: Path) -> None:
    """A request that is being served continues, and a mistake changes nothing."""
    files = Files(tmp_path)
    async with served(state) as relay:
        number = relay.port
        stays = attrs.evolve(LOOPBACK, addresses=[("127.0.0.1", 0), ("127.0.0.2", 0)], hosts=["admin.example.com"])
        assert (await relay.ask(host="admin.example.com"))[0] == 421
        await relay.tcp.change(stays)
        first, second = relay.tcp.bound
        assert first == f"127.0.0.1:{number}"
        assert second.startswith("127.0.0.2:")
        assert (await relay.ask(host="admin.example.com"))[0] == 200

        with socket.create_server(("127.0.0.1", 0)) as taken:
            for options, says in (
                (attrs.evolve(files.options, addresses=[taken.getsockname()]), "cannot listen on .*in use"),
                (attrs.evolve(stays, certificate=tmp_path / "missing.pem"), "missing"),
            ):
                with pytest.raises(ConfigurationError, match=says):
                    await relay.tcp.change(options)
                assert relay.tcp.bound == [first, second]
                assert (await relay.ask())[0] == 200

        async with await trio.open_tcp_stream("127.0.0.1", number) as stream:
            head = f"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {relay.token}\r\n\r\n"
            await stream.send_all(head.encode())
            with trio.fail_after(patience(20)):
                assert b"200 OK" in await stream.receive_some()
                await relay.tcp.change(files.options)
                assert relay.tcp.bound == [first]
                assert (await relay.ask(context=files.context()))[0] == 200
                with pytest.raises(OSError, match="all attempts to connect"):
                    await trio.open_tcp_stream("127.0.0.2", int(second.rpartition(":")[2]))
                assert [one.address for one in relay.events if isinstance(one, ManagementClosed)] == [second]
                await relay.tcp.change(TcpOptions())
                assert relay.tcp.bound == []
                while await stream.receive_some():  # its server stops: streams of events end
                    pass
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream("127.0.0.1", number)


def published(relay: Served) -> list[tuple[str, str | None]]:
    """The addresses in the events since the last call, in their order, each with its pin: "" without TLS, and None if
    the address was closed."""
    found = [
        (one.address, one.pin if isinstance(one, ManagementListening) else None)
        for one in relay.events
        if isinstance(one, ManagementListening | ManagementClosed)
    ]
    for one in relay.events:
        assert not isinstance(one, ManagementListening) or one.tls == bool(one.pin)
    relay.events.clear()
    return found


async def test_the_events_say_how_an_address_is_served_after_a_change(state: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    files, others = Files(tmp_path), Files(tmp_path / "other")
    pin, other_pin = (relay_pin(one.directory / "certificate.pem") for one in (files, others))
    elsewhere = attrs.evolve(LOOPBACK, addresses=[("127.0.0.2", 0)])
    async with served(state) as relay:
        (address,) = relay.tcp.bound
        assert published(relay) == [(address, "")]
        # The address stays: its first certificate, one in other files, other options, and no certificate.
        await relay.tcp.change(files.options)
        assert published(relay) == [(address, pin)]
        assert (await relay.ask(context=files.context()))[0] == 200
        await relay.tcp.change(others.options)
        assert published(relay) == [(address, other_pin)]
        await relay.tcp.change(attrs.evolve(others.options, hosts=["admin.example.com"]))
        assert published(relay) == []
        await relay.tcp.change(attrs.evolve(others.options, client_ca=tmp_path / "ca.pem"))
        (listening,) = (one for one in relay.events if isinstance(one, ManagementListening))
        assert listening.client_certificates
        assert published(relay) == [(address, other_pin)]
        await relay.tcp.change(LOOPBACK)
        assert published(relay) == [(address, "")]
        assert (await relay.ask())[0] == 200
        # Another address, and at the same time a certificate, or none.
        await relay.tcp.change(attrs.evolve(elsewhere, certificate=files.options.certificate, key=files.options.key))
        (second,) = relay.tcp.bound
        assert published(relay) == [(second, pin), (address, None)]
        await relay.tcp.change(LOOPBACK)
        (third,) = relay.tcp.bound
        assert published(relay) == [(third, ""), (second, None)]
        relay.port = int(third.rpartition(":")[2])
        assert (await relay.ask())[0] == 200


async def test_during_a_change_each_address_is_served_as_before_or_as_afterwards(
    state: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS is removed, and the address is another: the old one is never served without TLS, the new one never with."""
    waits, may_go_on, real = trio.Event(), trio.Event(), _listening.open_listeners

    async def open_listeners(host: str, port: int, *, events: EventStream) -> list[trio.SocketListener]:
        if host == "127.0.0.2":
            waits.set()
            await may_go_on.wait()
        return await real(host, port, events=events)

    monkeypatch.setattr("hybridrelay.management.tcp.open_listeners", open_listeners)
    without_tls = attrs.evolve(LOOPBACK, addresses=[("localhost", 0), ("127.0.0.2", 0)])
    with trio.fail_after(60):
        async with served(state, files.options) as relay:
            (old,) = relay.tcp.bound
            async with trio.open_nursery() as changing:
                changing.start_soon(relay.tcp.change, without_tls)
                await waits.wait()
                assert (await relay.ask(context=files.context()))[0] == 200
                assert (await relay.ask(context=files.context(), host="relay.example.com"))[0] == 200, (
                    "in its certificate"
                )
                new = next(one for one in relay.tcp.bound if one.startswith("127.0.0.1:") and one != old)
                relay.port = int(new.rpartition(":")[2])
                assert (await relay.ask())[0] == 200
                may_go_on.set()
            assert old not in relay.tcp.bound
            assert (await relay.ask())[0] == 200


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow both addresses at the same time")
async def test_a_change_that_fails_says_what_was_closed_and_opened_again(state: Path, files: Files) -> None:
    pin = relay_pin(files.directory / "certificate.pem")
    async with served(state, files.options) as relay:
        one, every = f"127.0.0.1:{relay.port}", f"0.0.0.0:{relay.port}"
        await relay.tcp.change(attrs.evolve(files.options, addresses=[("0.0.0.0", relay.port)]))
        assert published(relay) == [(one, pin), (one, None), (every, pin)]
        with socket.create_server(("127.0.0.1", 0)) as taken:
            impossible = attrs.evolve(LOOPBACK, addresses=[("127.0.0.1", relay.port), taken.getsockname()])
            with pytest.raises(ConfigurationError, match=r"cannot listen on .*in use"):
                await relay.tcp.change(impossible)
        assert published(relay) == [(every, None), (one, ""), (one, None), (every, pin)]
        assert relay.tcp.bound == [every]
        assert (await relay.ask(context=files.context()))[0] == 200


async def test_a_first_address_while_it_runs(state: Path) -> None:
    async with served(state, TcpOptions()) as relay:
        assert relay.tcp.bound == []
        await relay.tcp.change(LOOPBACK)
        relay.port = int(relay.tcp.bound[0].rpartition(":")[2])
        assert (await relay.ask())[0] == 200


class FromElsewhere:
    """An authenticator of another package."""

    async def authenticate(self, credentials: Credentials) -> Caller | None:
        await trio.lowlevel.checkpoint()
        return Caller("", "x", ManagementRole.VIEWER) if credentials.value == "open sesame" else None


def broken() -> object:
    raise RuntimeError("no configuration")


def test_authenticators_are_loaded_from_entry_points() -> None:
    def point(name: str, value: str) -> EntryPoint:
        return EntryPoint(name, f"{__name__}:{value}", "hybridrelay.management_auth")

    ((name, found),) = load_authenticators([point("oidc", "FromElsewhere")])
    assert (name, type(found).__name__) == ("oidc", "FromElsewhere")
    for points in (
        [point("oidc", "broken")],
        [point("oidc", "missing")],
        [point("oidc", "dict")],
        [point("oidc", "FromElsewhere"), point("oidc", "FromElsewhere")],
        [point("local", "FromElsewhere")],
    ):
        with pytest.raises(ConfigurationError, match="cannot be used"):
            load_authenticators(points)


async def test_a_thousand_connections_keep_the_owner_from_nothing(state: Path, files: Files) -> None:
    """Some are silent, some send half a request, and some never read. The socket answers, and the end is prompt."""
    with trio.fail_after(60):
        async with served(state, files.options) as relay:
            async with trio.open_nursery() as hostile:
                began = trio.Event()
                connected = 0

                async def hold(number: int) -> None:
                    nonlocal connected
                    with contextlib.suppress(OSError, trio.BrokenResourceError):
                        stream = await trio.open_tcp_stream("127.0.0.1", relay.port)
                        connected += 1
                        if connected == 900:
                            began.set()
                        async with stream:
                            if number % 3 == 1:
                                await stream.send_all(b"\x16\x03\x01\x02\x00\x01")
                            while await stream.receive_some():
                                pass
                            await trio.sleep_forever()

                for number in range(1000):
                    hostile.start_soon(hold, number)
                await began.wait()
                for _ in range(20):
                    async with await connect_unix_socket(state / "management.sock") as local:
                        assert (await Client(local, host="localhost").request("GET", "/v1/relay")).status == 200
                relay.stop.set()
                hostile.cancel_scope.cancel()


@asynccontextmanager
async def connections(port: int, count: int, source: str) -> AsyncIterator[list[trio.SocketStream]]:
    """Connections that send nothing, from an address of this machine."""
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                await trio.open_tcp_stream("127.0.0.1", port, local_address=source)  # all of 127.0.0.0/8 is local
            )
            for _ in range(count)
        ]


async def receive_end(stream: trio.SocketStream) -> None:
    """Wait until the server has closed a connection."""
    with contextlib.suppress(trio.BrokenResourceError):
        assert await stream.receive_some() == b""


@pytest.mark.skipif(sys.platform != "linux", reason="needs several loopback addresses")
async def test_one_address_without_credentials_cannot_take_all_connections(state: Path) -> None:
    with trio.fail_after(60):
        async with (
            served(state, attrs.evolve(LOOPBACK, hosts=["x"])) as relay,
            await trio.open_tcp_stream("127.0.0.1", relay.port, local_address="127.0.0.9") as stream,
        ):

            async def is_served(stream: trio.SocketStream) -> bool:
                header = f"Bearer {relay.token}"
                return (await Client(stream).request("GET", "/v1/relay", Authorization=header)).status == 200

            assert await is_served(stream)
            async with (
                connections(relay.port, 8, "127.0.0.3") as few,
                connections(relay.port, 200, "127.0.0.9") as many,
            ):
                # Its oldest connections make room for the others; those of other addresses stay.
                for _ in range(5):
                    assert (await relay.ask())[0] == 200
                await receive_end(many[0])
                for one in (*few, many[-1]):
                    assert await is_served(one)
                # A connection from there that had a valid token is not closed either.
                assert await is_served(stream)
            relay.stop.set()


@pytest.mark.skipif(sys.platform != "linux", reason="needs several loopback addresses")
async def test_a_connection_whose_credentials_were_refused_makes_room(state: Path) -> None:
    with trio.fail_after(60):
        async with (
            served(state, attrs.evolve(LOOPBACK, hosts=["x"])) as relay,
            await trio.open_tcp_stream("127.0.0.1", relay.port) as stream,
        ):
            assert (await Client(stream).request("GET", "/v1/relay", Authorization="Bearer x")).status == 401
            async with connections(relay.port, 64, "127.0.0.1"):
                assert (await relay.ask())[0] == 200
                await receive_end(stream)
            relay.stop.set()


@pytest.mark.parametrize("is_chunked", [True, False])
async def test_a_token_that_is_revoked_before_the_body_has_arrived(state: Path, is_chunked: bool) -> None:
    body = json.dumps({"endpoints": ["relay.example.com"]}).encode()
    framing = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {len(body)}"
    with trio.fail_after(60):
        async with (
            served(state, attrs.evolve(LOOPBACK, hosts=["x"])) as relay,
            await trio.open_tcp_stream("127.0.0.1", relay.port) as stream,
        ):
            await stream.send_all(
                f"PUT {CONNECTIONS}/new HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {relay.token}\r\n"
                f"Content-Type: application/json\r\n{framing}\r\nExpect: 100-continue\r\n\r\n".encode()
            )
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")  # the caller has been admitted
            with SQLiteStore.open(state) as store:
                (token,) = store.tokens()
                store.delete_token(token.id)
            await stream.send_all(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if is_chunked else body)
            answer = await stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 401 "), answer
            relay.stop.set()
    with SQLiteStore.open(state) as store:
        assert list(store.disabled_by_name()) == ["orders"]


async def test_one_caller_cannot_keep_others_out(state: Path) -> None:
    """More connections of one token than all callers have together: its oldest ones make room."""
    with SQLiteStore.open(state) as store:
        token, text = generate_management_token("many", ManagementRole.VIEWER, now=store.get("orders").created_at)
        store.add_token(token)
    request = f"GET /livez HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {text.reveal()}\r\n\r\n"
    with trio.fail_after(60):
        async with served(state, attrs.evolve(LOOPBACK, hosts=["x"])) as relay, contextlib.AsyncExitStack() as stack:
            other = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", relay.port))
            credentials = f"Bearer {relay.token}"
            assert (await Client(other).request("GET", "/v1/relay", Authorization=credentials)).status == 200
            many = []
            for number in range(140):
                one = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", relay.port))
                await one.send_all(request.encode())
                if number < 90:  # the responses to the rest are delayed, because there were too many requests
                    assert await one.receive_some()
                many.append(one)
            with contextlib.suppress(trio.BrokenResourceError):
                async for _ in many[0]:  # the response, and then the end
                    pass
            assert (await Client(other).request("GET", "/v1/relay", Authorization=credentials)).status == 200
            assert (await relay.ask())[0] == 200
            relay.stop.set()


async def test_a_client_that_never_reads(state: Path) -> None:
    """It fills its own connection, and delays neither other clients nor the end."""
    with trio.fail_after(60):
        async with served(state) as relay:
            stream = await trio.open_tcp_stream("127.0.0.1", relay.port)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            request = f"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {relay.token}\r\n\r\n"
            with trio.move_on_after(1):
                while True:
                    await stream.send_all(request.encode())
            assert (await relay.ask("/v1/relay"))[0] in (200, 429)
            relay.stop.set()
        await stream.aclose()


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the socket in the state directory")
