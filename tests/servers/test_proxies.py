"""Whole sessions through real proxies: relay, connector and client in this process, the proxy in its own."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import trio

from hybridrelay.abc import Dialer
from hybridrelay.connectivity import FailureKind, NoRouteWorks, Prober, ProxyDial, RelayEndpoint, Report
from hybridrelay.errors import RelayUnreachable
from hybridrelay.security import ConnectionString, Role

from ..receiving import receive_all, send_and_receive
from ..system.deployment import Deployment, Published, deploy, serve_target
from ..waiting import async_wait_until
from . import proxies
from .proxies import RealProxy, Starter, laboratory

WEB = ("http", "https")


async def digest(stream: trio.SocketStream) -> None:
    """Answers with the hash of what it gets, and with as many bytes again."""
    data = await receive_all(stream)
    await stream.send_all(hashlib.sha256(data).digest() + data)
    await stream.send_eof()


async def start(deployment: Deployment, dial: ProxyDial, mode: str = "auto") -> Published:
    """Publish a target; its connector dials through the proxy, too."""
    published = deployment.publish()
    target = await serve_target(deployment.nursery, digest)
    await deployment.connector(deployment.string(published, Role.CONNECTOR, target), dialer=Dialer(dial), mode=mode)
    return published


async def exchange(deployment: Deployment, published: Published, dial: ProxyDial, mode: str = "auto") -> Report:
    """One session: bytes there and back, half-close included. What the prober found."""
    data = os.urandom(1 << 20)
    string = deployment.string(published, Role.APPLICATION)
    async with deployment.client(string, dialer=Dialer(dial), mode=mode) as client:
        stream = await client.open_stream()
        received = await send_and_receive(stream, data)
        assert received == hashlib.sha256(data).digest() + data
        assert client.report is not None
        assert client.report.chosen == client.route
        return client.report


async def survey(deployment: Deployment, published: Published, dial: ProxyDial, mode: str = "auto") -> Report:
    endpoint = RelayEndpoint.all_from(deployment.string(published, Role.APPLICATION))[0]
    return await Prober(endpoint, dialer=Dialer(dial), mode=mode).survey()


def kinds(report: Report) -> dict[str, FailureKind | None]:
    """By the port's name as the report has it: route and step."""
    return {f"{a.route} {a.step}": a.failure.kind if a.failure else None for a in report.attempts}


OPEN = [
    (proxies.tinyproxy, False),
    (proxies.tinyproxy, True),
    (proxies.squid, False),
    (proxies.squid, True),
    (proxies.microsocks, False),
    (proxies.microsocks, True),
    (proxies.dante, False),
]
IDS = [f"{starter.__name__}{'-login' if login else ''}" for starter, login in OPEN]


@pytest.mark.parametrize(("starter", "login"), OPEN, ids=IDS)
@pytest.mark.parametrize("mode", ["tcp", "websocket"])
async def test_a_session_through_a_proxy(mode: str, starter: Starter, tmp_path: Path, *, login: bool) -> None:
    async with laboratory(tmp_path, starter, authentication=login) as (deployment, proxy):
        published = await start(deployment, proxy.dial(), mode)
        report = await exchange(deployment, published, proxy.dial(), mode)
        assert report.chosen == {"tcp": "tcp", "websocket": "wss"}[mode]
        assert report.proxy == f"{proxy.scheme}://127.0.0.1:{proxy.port}"
        assert all(attempt.intercepted_by is None for attempt in report.attempts)
        assert proxy.strays == [], "every connection goes through the proxy"


@pytest.mark.parametrize("starter", [proxies.tinyproxy, proxies.squid, proxies.dante])
async def test_native_ports_are_refused_and_443_is_used(starter: Starter, tmp_path: Path) -> None:
    async with laboratory(tmp_path, starter, WEB) as (deployment, proxy):
        published = await start(deployment, proxy.dial())
        report = await exchange(deployment, published, proxy.dial())
        assert report.chosen == "wss"
        report = await survey(deployment, published, proxy.dial())
        refused = FailureKind.PROXY_REFUSED
        assert kinds(report) == {
            "tcp probe": refused,
            "tcp control": refused,
            "tcp data": refused,
            "wss probe": None,
            "ws probe": None,
        }
        first = report.attempts[0]
        assert str(deployment.ports["probe"]) in first.explanation
        assert "allow CONNECT" in ((first.failure and first.failure.remedy) or "")
        assert f"through {proxy.scheme}://127.0.0.1:{proxy.port}" in report.as_table()
        with pytest.raises(RelayUnreachable, match="the proxy"):
            await exchange(deployment, published, proxy.dial(), "tcp")


@pytest.mark.parametrize("starter", [proxies.tinyproxy, proxies.squid, proxies.microsocks])
@pytest.mark.parametrize("anonymous", [True, False])
async def test_authentication_is_demanded(starter: Starter, tmp_path: Path, *, anonymous: bool) -> None:
    async with laboratory(tmp_path, starter, authentication=True) as (deployment, proxy):
        published = deployment.publish()
        dial = proxy.dial(password="wrong-hunter3", anonymous=anonymous)
        report = await survey(deployment, published, dial)
        assert set(kinds(report).values()) == {FailureKind.PROXY_AUTHENTICATION}
        expected = "requires authentication" if anonymous else "does not accept the user name and password"
        assert all(expected in attempt.explanation for attempt in report.attempts)
        with pytest.raises(NoRouteWorks) as caught:
            await exchange(deployment, published, dial)
        assert expected in str(caught.value)
        assert "user name and password" in (caught.value.remedy or "")
        for text in (report.as_table(), report.as_json(), str(caught.value)):
            assert "hunter" not in text
            assert proxies.USER + "@" not in text


async def relay_is_gone(deployment: Deployment) -> None:
    """Wait until no port of the relay accepts connections."""

    async def all_refuse() -> bool:
        for port in filter(None, deployment.ports.values()):
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                continue
            await trio.aclose_forcefully(stream)
            return False
        return True

    await async_wait_until(all_refuse, seconds=30, what="the end of the relay")


@pytest.mark.parametrize("starter", [proxies.tinyproxy, proxies.squid, proxies.microsocks, proxies.dante])
async def test_what_the_proxy_cannot_reach(starter: Starter, tmp_path: Path, nursery: trio.Nursery) -> None:
    async with laboratory(tmp_path, starter) as (deployment, proxy):
        published = deployment.publish()
        deployment.scope.cancel()
        await relay_is_gone(deployment)
        report = await survey(deployment, published, proxy.dial())
        assert report.chosen is None
        assert set(kinds(report).values()) <= {FailureKind.PROXY_CANNOT_CONNECT}


async def test_no_proxy_where_one_should_be(nursery: trio.Nursery, tmp_path: Path) -> None:
    deployment = await deploy(nursery, tmp_path)
    published = deployment.publish()
    front = deployment.ports["http"]
    assert front is not None
    report = await survey(deployment, published, RealProxy("socks5", front, False, tmp_path).dial())
    assert set(kinds(report).values()) == {FailureKind.PROXY_FAILED}
    report = await survey(deployment, published, RealProxy("http", front, False, tmp_path).dial())
    assert set(kinds(report).values()) == {FailureKind.PROXY_REFUSED}


# --- interception


def secrets_of(*strings: ConnectionString) -> list[bytes]:
    """What nobody on the way may see."""
    found: list[bytes] = []
    for string in strings:
        assert string.identity is not None
        found += [string.key.reveal().encode(), string.identity.private_key.reveal().encode()]
    return found


async def test_a_session_through_a_proxy_that_opens_tls(tmp_path: Path) -> None:
    marker = b"nobody on the way may read this " * 3000
    async with laboratory(tmp_path, proxies.mitmproxy) as (deployment, proxy):
        published = deployment.publish()
        target = await serve_target(deployment.nursery, digest)
        connector = deployment.string(published, Role.CONNECTOR, target)
        application = deployment.string(published, Role.APPLICATION)
        await deployment.connector(connector, dialer=Dialer(proxy.dial()), mode="websocket")
        async with deployment.client(application, dialer=Dialer(proxy.dial()), mode="websocket") as client:
            stream = await client.open_stream()
            await stream.send_all(marker)
            await stream.send_eof()
            assert (await receive_all(stream))[32:] == marker
            assert client.route == "wss"
            assert client.report is not None
            assert [a.intercepted_by for a in client.report.attempts if a.route == "wss"] == ["mitmproxy"]
        report = await survey(deployment, published, proxy.dial(), "websocket")
        wss, ws = report.attempts
        assert (wss.intercepted_by, ws.intercepted_by) == ("mitmproxy", None)
        assert "intercepted: mitmproxy intercepts TLS" in report.as_table()
        seen = (proxy.directory / "seen").read_bytes()
        assert b"hybridrelay.v1" in seen, "it did open the outer TLS"
        assert len(seen) > 2 * len(marker), "and saw every byte in it"
        for secret in [marker[:32], b"SharedAccessSignature", *secrets_of(connector, application)]:
            assert secret not in seen
        assert proxy.strays == []


async def test_a_proxy_that_opens_tls_and_wants_public_certificates(tmp_path: Path) -> None:
    async with laboratory(tmp_path, proxies.mitmproxy, verify=True) as (deployment, proxy):
        published = deployment.publish()
        report = await survey(deployment, published, proxy.dial(), "websocket")
        wss = report.attempts[0]
        assert wss.failure is not None
        assert wss.failure.kind is FailureKind.INTERCEPTION_FAILED
        assert "issued by mitmproxy" in wss.explanation
        assert "a public one is needed" in (wss.failure.remedy or "")
        assert wss.intercepted_by == "mitmproxy", "the relay said so over another route"
        assert report.chosen == "ws"
