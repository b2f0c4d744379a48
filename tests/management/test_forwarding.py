"""The management API behind proxies: limits and the audit log are about the client's address."""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay.events import (
    ForwardedAddressMalformed,
    ManagementAuthenticationFailed,
    ManagementCalled,
    ProxyHeaderRefused,
)
from hybridrelay.security import parse_networks_untrusted

from ..http.serving import Answer, Client
from ..waiting import patience
from .test_tcp import CONNECTIONS, LOOPBACK, Served, served, state

__all__ = ["state"]

PROXY, OTHER, CLIENT = "127.0.0.5", "127.0.0.6", "192.0.2.7"
NETWORK = parse_networks_untrusted(PROXY)
#: `Client` asks for this host.
OPTIONS = attrs.evolve(LOOPBACK, hosts=("x",))
V1 = f"PROXY TCP4 {CLIENT} 198.51.100.1 4711 443\r\n".encode()

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all addresses of 127.0.0.0/8")


async def _connect(api: Served, source: str = PROXY) -> trio.SocketStream:
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    await sock.bind((source, 0))
    await sock.connect(("127.0.0.1", api.port))
    return trio.SocketStream(sock)


async def _call(
    api: Served, *, source: str = PROXY, forwarded: str = "", sent: bytes = b"", token: str | None = None
) -> Answer:
    """Try to delete what there is not, over a new connection."""
    async with await _connect(api, source) as stream:
        await stream.send_all(sent)
        headers = {"Authorization": f"Bearer {api.token if token is None else token}"}
        if forwarded:
            headers["X_Forwarded_For"] = forwarded
        with trio.fail_after(patience(20)):
            return await Client(stream).request("DELETE", f"{CONNECTIONS}/nothing", b"", **headers)


def _callers(api: Served) -> list[str]:
    return [event.peer for event in api.events if isinstance(event, ManagementCalled)]


async def test_x_forwarded_for_is_believed_from_trusted_proxies_only(state: Path) -> None:
    async with served(state, attrs.evolve(OPTIONS, trusted_proxies=NETWORK)) as api:
        for source, forwarded, expected in (
            (PROXY, CLIENT, CLIENT),
            (PROXY, f"1.1.1.1, {CLIENT}", CLIENT),
            (PROXY, "", PROXY),
            (OTHER, CLIENT, OTHER),
        ):
            assert (await _call(api, source=source, forwarded=forwarded)).status == 204
            assert _callers(api)[-1] == expected
        assert not any(isinstance(event, ForwardedAddressMalformed) for event in api.events)
        assert (await _call(api, forwarded=f"{CLIENT}, nonsense")).status == 204
        assert _callers(api)[-1] == PROXY
        (malformed,) = (event for event in api.events if isinstance(event, ForwardedAddressMalformed))
        assert (malformed.peer, malformed.port) == (PROXY, "management")


async def test_failed_attempts_behind_a_proxy_count_for_the_client(state: Path) -> None:
    async with served(state, attrs.evolve(OPTIONS, trusted_proxies=NETWORK)) as api:
        found = [(await _call(api, forwarded=CLIENT, token="hrm_wrong")).status for _ in range(7)]
        assert found == [401] * 5 + [429] * 2
        assert (await _call(api, forwarded="192.0.2.8", token="hrm_wrong")).status == 401
        failed = [event.peer for event in api.events if isinstance(event, ManagementAuthenticationFailed)]
        assert set(failed) == {CLIENT, "192.0.2.8"}


async def test_one_connection_of_a_proxy_carries_requests_of_several_clients(state: Path) -> None:
    async with served(state, attrs.evolve(OPTIONS, trusted_proxies=NETWORK)) as api, await _connect(api) as stream:
        client = Client(stream)
        for address in ("192.0.2.1", "192.0.2.2"):
            with trio.fail_after(patience(20)):
                token = f"Bearer {api.token}"
                path = f"{CONNECTIONS}/nothing"
                await client.request("DELETE", path, X_Forwarded_For=address, Authorization=token)
        assert _callers(api) == ["192.0.2.1", "192.0.2.2"]


async def test_a_proxy_header_states_the_caller_and_a_missing_one_is_refused(state: Path) -> None:
    async with served(state, attrs.evolve(OPTIONS, proxy_protocol_from=NETWORK)) as api:
        assert (await _call(api, sent=V1)).status == 204
        assert (await _call(api, sent=b"PROXY UNKNOWN\r\n")).status == 204
        assert (await _call(api, source=OTHER)).status == 204
        assert _callers(api) == [CLIENT, PROXY, OTHER]
        async with await _connect(api) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
            with trio.fail_after(patience(20)), contextlib.suppress(trio.BrokenResourceError):
                assert await stream.receive_some() == b""

        # The event is published before the connection is closed.
        (refused,) = (event for event in api.events if isinstance(event, ProxyHeaderRefused))
        assert (refused.peer, refused.port) == (PROXY, "management")


async def test_x_forwarded_proto_is_believed_from_trusted_proxies_only(state: Path) -> None:
    """It decides whether the cookie of a login is for connections with TLS only."""
    async with served(state, attrs.evolve(OPTIONS, trusted_proxies=NETWORK)) as api:
        for source, proto, is_secure in (
            (PROXY, "https", True),
            (PROXY, "http", False),
            (PROXY, "", False),
            (OTHER, "https", False),
        ):
            headers = {"X_Forwarded_For": CLIENT, "Origin": "http://x"}
            headers |= {"X_Forwarded_Proto": proto} if proto else {}
            headers["Content_Type"] = "application/x-www-form-urlencoded"
            async with await _connect(api, source) as stream:
                with trio.fail_after(patience(20)):
                    body = f"token={api.token}".encode()
                    answer = await Client(stream).request("POST", "/login", body, **headers)
            assert answer.status == 303
            assert answer.headers["set-cookie"].endswith("; Secure") is is_secure, (source, proto)
