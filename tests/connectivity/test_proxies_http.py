"""HTTP CONNECT: the requests that are sent, and how every answer is handled."""

from __future__ import annotations

import base64
import errno
import math
import ssl
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.connectivity import (
    FailureKind,
    Proxy,
    ProxyAnswer,
    ProxyDial,
    ProxyError,
    ProxySettings,
)
from hybridrelay.connectivity.proxies.head import MAX_HEAD_BYTES, head_size_untrusted
from hybridrelay.connectivity.proxies.http import BODY_SECONDS, MAX_BODY_BYTES, MAX_ROUNDS
from hybridrelay.security import load_or_create_relay_certificate

from .proxies import (
    Script,
    ScriptedProxy,
    assert_echoes,
    echo,
    fail,
    make_certificate,
    read_head,
    saying,
    silence,
    start_connect_proxy,
    ticket_authenticator,
)

K = FailureKind
PROXY = "http://proxy.corp:3128"
RELAY = "relay.example.com"
OK = b"HTTP/1.1 200 Connection established\r\n\r\n"
AUTHENTICATE = (
    b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n"
)


# --- what is asked


@pytest.mark.parametrize(
    ("host", "port", "target"),
    [(RELAY, 443, f"{RELAY}:443"), ("10.0.0.1", 9350, "10.0.0.1:9350"), ("2001:db8::1", 80, "[2001:db8::1]:80")],
)
async def test_a_proxy_is_asked_to_connect_to_the_name(
    nursery: trio.Nursery, host: str, port: int, target: str
) -> None:
    heads: list[str] = []
    proxy = ScriptedProxy(nursery, saying(OK, then=echo, heads=heads))
    async with await proxy.through()(host, port) as stream:
        await assert_echoes(stream)
    assert proxy.dialed == [("proxy.corp", 3128)], "names are left to the proxy"
    lines = heads[0].split("\r\n")
    assert lines[0] == f"CONNECT {target} HTTP/1.1"
    assert f"host: {target}" in [line.lower() for line in lines]
    assert "authorization" not in heads[0].lower()


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_an_address_with_a_zone_is_not_left_to_the_proxy(nursery: trio.Nursery, scheme: str) -> None:
    proxy = ScriptedProxy(nursery, silence)
    with pytest.raises(ProxyError, match="zone"):
        await proxy.through(f"{scheme}://proxy.corp")("fe80::1%eth0", 443)
    assert proxy.dialed == []


async def test_user_and_password_go_with_the_first_request(nursery: trio.Nursery) -> None:
    heads: list[str] = []
    proxy = ScriptedProxy(nursery, saying(OK, then=echo, heads=heads))
    async with await proxy.through("http://m%C3%BCller:hunter2@proxy.corp")(RELAY, 443):
        pass
    credentials = base64.b64encode("müller:hunter2".encode()).decode()
    assert f"proxy-authorization: basic {credentials}".lower() in heads[0].lower()
    assert credentials in heads[0]


async def test_without_a_proxy_for_it_the_address_is_dialed(nursery: trio.Nursery) -> None:
    proxy = ScriptedProxy(nursery, echo)
    settings = ProxySettings.from_environment({"ALL_PROXY": "http://proxy", "NO_PROXY": RELAY})
    async with await ProxyDial(settings, dial=proxy.dial)(RELAY, 443) as stream:
        await assert_echoes(stream)
    assert proxy.dialed == [(RELAY, 443)]


@pytest.mark.parametrize("host", ["", "a b", "a\r\nX: y", "ü.example", "a" * 254, "x" * 64 + ".com"])
async def test_what_is_not_a_host_is_not_asked_for(nursery: trio.Nursery, host: str) -> None:
    proxy = ScriptedProxy(nursery, echo)
    with pytest.raises(ProxyError) as caught:
        await proxy.through()(host, 443)
    assert caught.value.failure.kind is K.NAME_NOT_FOUND
    assert proxy.dialed == []


# --- what is answered


@pytest.mark.parametrize("early", [b"", b"early", b"\r\n\r\n"])
@pytest.mark.parametrize(
    "head",
    [
        OK,
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 204 Fine\r\n\r\n",
        b"HTTP/1.1 299 \r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nVia: 1.1 proxy\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 102 Processing\r\n\r\n" * 50 + OK,
        b"HTTP/1.1 200 OK\nProxy-Agent: old\n\n",
        # All of this is to be ignored in a successful answer, and in interim ones (RFC 9110, section 9.3.6).
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding : gzip,\r\n chunked\r\nVia: x\r\n\r\n",
        b"HTTP/1.1 200 OK\nTRANSFER-ENCODING: deflate\nContent-Length: 3\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\nTransfer-Encoding: identity\r\nContent-Length: 9\r\n\r\n" + OK,
    ],
)
@pytest.mark.parametrize("pieces", [1, 7, 10_000])
async def test_a_tunnel_opens_and_no_byte_is_lost(
    nursery: trio.Nursery, head: bytes, early: bytes, pieces: int
) -> None:
    async def drip(stream: trio.abc.HalfCloseableStream) -> None:
        await read_head(stream)
        answer = head + early
        for start in range(0, len(answer), pieces):
            await stream.send_all(answer[start : start + pieces])
            await trio.testing.wait_all_tasks_blocked()
        await echo(stream)

    proxy = ScriptedProxy(nursery, drip)
    async with await proxy.through()(RELAY, 443) as stream:
        await assert_echoes(stream, early)
    await proxy.assert_all_closed()


REFUSALS: list[tuple[str, FailureKind, str]] = [
    ("403 Forbidden", K.PROXY_REFUSED, "refuses port 9350 of relay.example.com (403 Forbidden)"),
    ("403 Access violation", K.PROXY_REFUSED, "403 Access violation"),
    ("400 Bad Request", K.PROXY_REFUSED, "400 Bad Request"),
    ("404 Not Found", K.PROXY_REFUSED, "404"),
    ("405 Method Not Allowed", K.PROXY_REFUSED, "405"),
    ("401 Unauthorized", K.PROXY_AUTHENTICATION, "requires authentication (401; Basic)"),
    ("418 ", K.PROXY_REFUSED, "(418)"),
    ("502 Bad Gateway", K.PROXY_CANNOT_CONNECT, "cannot connect to relay.example.com:9350 (502 Bad Gateway)"),
    ("503 Service Unavailable", K.PROXY_CANNOT_CONNECT, "503"),
    ("504 Gateway Timeout", K.PROXY_CANNOT_CONNECT, "504"),
    ("500 Oops", K.PROXY_CANNOT_CONNECT, "500"),
    ("302 Found", K.PROXY_REFUSED, "answers with a redirect (302 Found)"),
    ("511 Network Authentication Required", K.PROXY_REFUSED, "answers with a redirect"),
    ("407 Proxy Authentication Required", K.PROXY_AUTHENTICATION, "requires authentication (407; Basic)"),
]


@pytest.mark.parametrize(("status", "kind", "text"), REFUSALS)
@pytest.mark.parametrize(
    "body", ["length", "chunked", "until-close", "huge", "cut", "identity", "two-lengths", "bad-length", "bad-chunks"]
)
async def test_every_refusal_is_reported_as_such(
    nursery: trio.Nursery, status: str, kind: FailureKind, text: str, body: str
) -> None:
    head = f"HTTP/1.1 {status}\r\nProxy-Authenticate: Basic realm=corp\r\n".encode()
    rest = {
        "length": b"Content-Length: 4\r\n\r\nbody",
        "chunked": b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        "until-close": b"Connection: close\r\n\r\nbody",
        "huge": b"Content-Length: 9999999\r\n\r\n" + bytes(2 * MAX_BODY_BYTES),
        "cut": b"Content-Length: 40\r\n\r\nbody",
        "identity": b"Transfer-Encoding: identity\r\n\r\nbody",
        "two-lengths": b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nbody",
        "bad-length": b"Content-Length: -1\r\n\r\nbody",
        "bad-chunks": b"Transfer-Encoding: chunked\r\n\r\nzz\r\nbody",
    }[body]
    proxy = ScriptedProxy(nursery, saying(head + rest))
    failure = await fail(proxy)
    assert failure.kind is kind
    assert text in failure.text
    assert failure.text.startswith("the proxy http://proxy.corp:3128 ")
    assert failure.remedy
    assert len(proxy.dialed) == 1


async def test_what_the_proxy_says_is_cut_and_cleaned(nursery: trio.Nursery) -> None:
    # h11 passes high bytes and tabs of a reason phrase.
    failure = await fail(ScriptedProxy(nursery, saying(b"HTTP/1.1 403 a\tb\xff" + b"x" * 500 + b"\r\n\r\n")))
    assert failure.text.isprintable()
    assert len(failure.text) < 250


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nVia: x",
        b"\x05\x00",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"garbage\r\n\r\n",
        bytes(range(256)),
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 2 * MAX_HEAD_BYTES,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * MAX_HEAD_BYTES,
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
    ],
)
async def test_what_is_not_a_proxy(nursery: trio.Nursery, answer: bytes) -> None:
    failure = await fail(ScriptedProxy(nursery, saying(answer)))
    assert failure.kind is K.PROXY_FAILED
    assert any(words in failure.text for words in ("does not speak HTTP", "closed the connection", "no final one"))


@pytest.mark.parametrize("piece", [b"X: y\r\n", b"y" * 1000])
async def test_a_head_without_end_is_not_read_to_its_end(
    nursery: trio.Nursery, piece: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    sent = 0

    async def talk(stream: trio.abc.HalfCloseableStream) -> None:
        nonlocal sent
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            await stream.send_all(piece)
            sent += len(piece)
            await trio.testing.wait_all_tasks_blocked()

    failure = await fail(ScriptedProxy(nursery, talk))
    assert failure.kind is K.PROXY_FAILED
    assert sent < 2 * MAX_HEAD_BYTES


def test_the_longest_head() -> None:
    begin, end = b"HTTP/1.1 200 OK\r\nX: ", b"\r\n\r\n"
    longest = begin + b"y" * (MAX_HEAD_BYTES - len(begin) - len(end)) + end
    assert head_size_untrusted(longest) == head_size_untrusted(longest + b"data") == MAX_HEAD_BYTES
    assert head_size_untrusted(longest[:-1]) is None
    with pytest.raises(ValueError, match="too long"):
        head_size_untrusted(begin + b"y" + longest[len(begin) :])


# --- authentication


@pytest.mark.parametrize(
    ("url", "challenges", "text", "remedy"),
    [
        ("http://proxy", ["Basic realm=x"], "requires authentication (407; Basic)", "user name and password"),
        ("http://u:hunter2@proxy", ["Basic realm=x"], "does not accept the user name", "correct"),
        ("http://u:hunter2@proxy", ["NTLM", "Negotiate"], "407; NTLM, Negotiate", "ProxyAuthenticator"),
        ("http://proxy", ["Negotiate", "Basic realm=x"], "Basic, Negotiate", "give the proxy's user name"),
        ("http://proxy", [], "no scheme named", "give the proxy's"),
        ("http://proxy", ["", " "], "no scheme named", "give the proxy's"),
    ],
)
async def test_authentication_is_demanded(
    nursery: trio.Nursery, url: str, challenges: Sequence[str], text: str, remedy: str
) -> None:
    lines = "".join(f"Proxy-Authenticate: {challenge}\r\n" for challenge in challenges)
    proxy = ScriptedProxy(nursery, saying(f"HTTP/1.1 407 x\r\n{lines}Content-Length: 0\r\n\r\n".encode()))
    failure = await fail(proxy, url)
    assert failure.kind is K.PROXY_AUTHENTICATION
    assert text in failure.text
    assert remedy in (failure.remedy or "")


def ticket_proxy(*, close_after_first: bool = False, heads: list[str]) -> Script:
    """Demands two rounds on one connection."""

    async def script(stream: trio.abc.HalfCloseableStream) -> None:
        for _ in range(9):
            head = await read_head(stream)
            heads.append(head)
            if "Ticket 2" in head:
                await stream.send_all(OK)
                await echo(stream)
                return
            challenge = "Ticket challenge-1" if "Ticket 1" in head else "Ticket"
            close = "Connection: close\r\n" if close_after_first and "Ticket" not in head else ""
            answer = f"HTTP/1.1 407 x\r\nProxy-Authenticate: {challenge}\r\n{close}Content-Length: 9\r\n\r\nlog in!!!"
            await stream.send_all(answer.encode())
            if close:
                return

    return script


@pytest.mark.parametrize("close_after_first", [False, True])
async def test_several_rounds_on_one_connection(nursery: trio.Nursery, *, close_after_first: bool) -> None:
    heads: list[str] = []
    seen: list[list[str]] = []
    proxy = ScriptedProxy(nursery, ticket_proxy(close_after_first=close_after_first, heads=heads))
    dial = proxy.through(authenticator=partial(ticket_authenticator, seen=seen))
    async with await dial(RELAY, 443) as stream:
        await assert_echoes(stream)
    assert len(heads) == 3
    assert seen == [[], ["Ticket"], ["Ticket challenge-1"]]
    assert len(proxy.dialed) == 1 + close_after_first


@pytest.mark.parametrize(
    ("rest", "dials"),
    [
        (b"Content-Length: 4\r\n\r\nbody", 1),
        (b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", 1),
        # Their end is unknown or too far away: the next request needs another connection.
        (b"Transfer-Encoding: identity\r\n\r\nbody", 2),
        (b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nbody!", 2),
        (b"Content-Length: 9999999\r\n\r\n" + bytes(2 * MAX_BODY_BYTES), 2),
        (b"Connection: close\r\n\r\nbody", 2),
        (b"Content-Length: 4\r\n\r\nbodyand more, which nobody has asked for", 2),
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_authentication_goes_on_after_every_kind_of_content(
    nursery: trio.Nursery, version: str, rest: bytes, dials: int
) -> None:
    async def script(stream: trio.abc.HalfCloseableStream) -> None:
        while True:
            if "authorization: ticket 1" in (await read_head(stream)).lower():
                await stream.send_all(OK)
                await echo(stream)
                return
            await stream.send_all(f"HTTP/{version} 407 x\r\nProxy-Authenticate: Ticket\r\n".encode() + rest)
            if b"close" in rest or version == "1.0":
                return

    proxy = ScriptedProxy(nursery, script)
    dial = proxy.through(authenticator=partial(ticket_authenticator, seen=[]))
    async with await dial(RELAY, 443) as stream:
        await assert_echoes(stream)
    assert len(proxy.dialed) == (2 if version == "1.0" else dials)


async def test_rounds_do_not_go_on_for_ever(nursery: trio.Nursery) -> None:
    async def never_content(stream: trio.abc.HalfCloseableStream) -> None:
        while True:
            await read_head(stream)
            await stream.send_all(AUTHENTICATE)

    seen: list[list[str]] = []
    proxy = ScriptedProxy(nursery, never_content)
    failure = await fail(proxy, authenticator=partial(ticket_authenticator, seen=seen, rounds=10_000))
    assert failure.kind is K.PROXY_AUTHENTICATION
    assert "after all attempts" in failure.text
    assert len(seen) == MAX_ROUNDS
    assert len(proxy.dialed) == 1


async def test_an_authenticators_own_error_leaves_as_itself(nursery: trio.Nursery) -> None:
    class NoTicketError(Exception):
        pass

    def authenticator(proxy: Proxy) -> ProxyAnswer:
        async def answer(challenges: Sequence[str]) -> str | None:
            if challenges:
                raise NoTicketError
            return None

        return answer

    proxy = ScriptedProxy(nursery, saying(AUTHENTICATE, then=silence))
    with pytest.raises(NoTicketError):
        await proxy.through(authenticator=authenticator)(RELAY, 443)
    await proxy.assert_all_closed()


# --- deadlines, in virtual time


async def one_byte_a_second(stream: trio.abc.HalfCloseableStream) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 10_000:
        await stream.send_all(bytes([byte]))
        await trio.sleep(1)


async def informs_for_ever(stream: trio.abc.HalfCloseableStream) -> None:
    while True:
        await stream.send_all(b"HTTP/1.1 102 Processing\r\n\r\n")
        await trio.sleep(0.1)


@pytest.mark.parametrize("script", [silence, one_byte_a_second, informs_for_ever])
@pytest.mark.parametrize("seconds", [0.5, 4.0, float("inf")])
@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
async def test_a_slow_proxy_is_given_up_and_named(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, script: Script, seconds: float, scheme: str
) -> None:
    if scheme != "http":
        script = silence
    proxy = ScriptedProxy(nursery, script)
    began = trio.current_time()
    with trio.move_on_after(seconds) as scope:
        failure = await fail(proxy, f"{scheme}://proxy.corp")
        assert failure.kind is K.PROXY_SILENT
        assert "does not answer" in failure.text
    assert not scope.cancelled_caught, "it fails in its own words before the caller gives up"
    assert trio.current_time() - began <= min(seconds, 30)
    await proxy.assert_all_closed()


def slow_body(framing: str, seconds: float, heads: list[str]) -> Script:
    """Demands a ticket in an answer whose body of ten bytes takes so long, and keeps the connection open."""

    async def script(stream: trio.abc.HalfCloseableStream) -> None:
        while True:
            head = await read_head(stream)
            heads.append(head)
            if "Ticket 1" in head:
                await stream.send_all(OK)
                await echo(stream)
                return
            await stream.send_all(f"HTTP/1.1 407 x\r\nProxy-Authenticate: Ticket\r\n{framing}\r\n".encode())
            for _ in range(10):
                await trio.sleep(seconds / 10)
                await stream.send_all(b"1\r\nx\r\n" if "chunked" in framing else b"x")
            await stream.send_all(b"0\r\n\r\n" if "chunked" in framing else b"")

    return script


#: How the end of a body is stated, how long the body takes (seconds), and for how long it is read, if at all.
SLOW_BODIES = [
    ("", math.inf, 0),
    ("", 0.5, 0),
    ("Proxy-Connection: keep-alive\r\n", math.inf, 0),
    ("Content-Length: 10\r\nConnection: close\r\n", math.inf, 0),
    ("Content-Length: 10\r\n", math.inf, BODY_SECONDS),
    ("Content-Length: 10\r\n", 20 * BODY_SECONDS, BODY_SECONDS),
    ("Content-Length: 10\r\n", BODY_SECONDS / 2, BODY_SECONDS / 2),
    ("Transfer-Encoding: chunked\r\n", math.inf, BODY_SECONDS),
    ("Transfer-Encoding: chunked\r\n", 20 * BODY_SECONDS, BODY_SECONDS),
    ("Transfer-Encoding: chunked\r\n", BODY_SECONDS / 2, BODY_SECONDS / 2),
]


@pytest.mark.parametrize(("framing", "seconds", "reads_for"), SLOW_BODIES)
async def test_a_body_that_does_not_come_hides_no_demand_for_a_password(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, framing: str, seconds: float, reads_for: float
) -> None:
    began = trio.current_time()
    failure = await fail(ScriptedProxy(nursery, slow_body(framing, seconds, [])), "http://u:hunter2@proxy.corp")
    assert failure.kind is K.PROXY_AUTHENTICATION
    assert "does not accept the user name and password (407; Ticket)" in failure.text
    assert trio.current_time() == began, "the body is of no use"


@pytest.mark.parametrize(("framing", "seconds", "reads_for"), SLOW_BODIES)
async def test_authentication_goes_on_without_a_body_that_does_not_come(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, framing: str, seconds: float, reads_for: float
) -> None:
    heads: list[str] = []
    seen: list[list[str]] = []
    proxy = ScriptedProxy(nursery, slow_body(framing, seconds, heads))
    began = trio.current_time()
    async with await proxy.through(authenticator=partial(ticket_authenticator, seen=seen))(RELAY, 443) as stream:
        assert trio.current_time() - began == pytest.approx(reads_for)
        await assert_echoes(stream)
    assert seen == [[], ["Ticket"]]
    assert len(heads) == 2
    assert len(proxy.dialed) == (1 if 0 < reads_for < BODY_SECONDS else 2)
    await proxy.assert_all_closed()


async def test_a_proxy_that_is_not_there(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    async def drop(host: str, port: int) -> trio.abc.HalfCloseableStream:
        await trio.sleep_forever()
        raise AssertionError

    async def refuse(host: str, port: int) -> trio.abc.HalfCloseableStream:
        raise ConnectionRefusedError(111, "refused")

    settings = ProxySettings.explicit("http://me:hunter2@proxy.corp:3128")
    for dial, text in [(drop, "no answer"), (refuse, "connection refused")]:
        with pytest.raises(ProxyError) as caught:
            await ProxyDial(settings, dial=dial)(RELAY, 443)
        assert caught.value.failure.kind is K.PROXY_UNREACHABLE
        assert caught.value.failure.text == f"the proxy http://proxy.corp:3128 cannot be reached: {text}"


async def test_a_shortage_of_this_machine_is_not_the_proxys_fault(nursery: trio.Nursery) -> None:
    async def fail(host: str, port: int) -> trio.abc.HalfCloseableStream:
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.raises(ProxyError) as caught:
        await ProxyDial(ProxySettings.explicit("http://proxy.corp:3128"), dial=fail)(RELAY, 443)
    assert caught.value.failure.kind is K.OUT_OF_RESOURCES
    assert caught.value.failure.text == "this machine has run out of file descriptors"


async def test_cancelled_at_any_point_nothing_stays_open(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async def slow(stream: trio.abc.HalfCloseableStream) -> None:
        heads: list[str] = []
        inner = ticket_proxy(heads=heads)
        await trio.sleep(0.1)
        await inner(stream)

    proxy = ScriptedProxy(nursery, slow)
    for step in range(30):
        dial = proxy.through(authenticator=partial(ticket_authenticator, seen=[]))
        async with trio.open_nursery() as dialing:

            async def cancel(scope: trio.CancelScope = dialing.cancel_scope, seconds: float = step * 0.01) -> None:
                await trio.sleep(seconds)
                scope.cancel()

            dialing.start_soon(cancel)
            async with await dial(RELAY, 443):
                dialing.cancel_scope.cancel()
    await proxy.assert_all_closed()


# --- anything at all

BITS = [
    OK, AUTHENTICATE, b"HTTP/1.1 ", b"200", b"407", b"\r\n", b"\r\n\r\n", b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Proxy-Authenticate: Basic\r\n", b"Connection: close\r\n",
    b"0\r\n\r\n", b"HTTP/1.0 407 x\r\n", b"5\r\nabcde\r\n", b"Content-Length: -1\r\n", b"HTTP/1.1 403 \r\n",
    b"\5\0", b"\5\2", b"\1\0", b"\5\0\0\1", b"\5\0\0\3", b"\xff",
]  # fmt: skip
PARTS = st.lists(st.one_of(st.binary(max_size=30), st.sampled_from(BITS)), max_size=8)


@given(
    st.lists(PARTS, min_size=1, max_size=4), st.sampled_from(["http://proxy", "http://u:p@proxy", "socks5://u:p@p"])
)
def test_whatever_a_proxy_says_only_proxy_errors_escape(answers: list[list[bytes]], url: str) -> None:
    async def script(stream: trio.abc.HalfCloseableStream) -> None:
        for answer in answers:
            await stream.receive_some()
            for piece in answer:
                await stream.send_all(piece)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            proxy = ScriptedProxy(nursery, script)
            try:
                stream = await proxy.through(url)(RELAY, 443)
            except ProxyError:
                await proxy.assert_all_closed()
            else:
                await stream.aclose()
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# --- https:// proxies


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The context of a proxy called 127.0.0.1, and one that trusts it."""
    certificate = make_certificate(tmp_path / "proxy.pem", "127.0.0.1")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    return server, ssl.create_default_context(cafile=str(certificate))


async def test_a_proxy_behind_tls(nursery: trio.Nursery, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    target = await nursery.start(partial(trio.serve_tcp, echo, 0, host="127.0.0.1"))
    proxy = await start_connect_proxy(nursery, context=tls[0])
    settings = ProxySettings.explicit(f"https://me:hunter2@127.0.0.1:{proxy.port}")
    dial = ProxyDial(settings, ssl_context=tls[1])
    async with await dial("127.0.0.1", target[0].socket.getsockname()[1]) as stream:
        await assert_echoes(stream)
        await stream.wait_send_all_might_not_block()
        assert isinstance(stream, trio.abc.HalfCloseableStream)
        await stream.send_eof()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")
    nursery.cancel_scope.cancel()


async def test_a_proxys_certificate_has_to_be_trusted(
    nursery: trio.Nursery, tls: tuple[ssl.SSLContext, ssl.SSLContext], tmp_path: Path
) -> None:
    untrusted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    untrusted.load_cert_chain(load_or_create_relay_certificate(tmp_path, now=time.time()))
    for server, client in [(untrusted, None), (untrusted, tls[1]), (tls[0], None)]:
        proxy = await start_connect_proxy(nursery, context=server)
        settings = ProxySettings.explicit(f"https://me:hunter2@127.0.0.1:{proxy.port}")
        with pytest.raises(ProxyError) as caught:
            await ProxyDial(settings, ssl_context=client)(RELAY, 443)
        assert caught.value.failure.kind is K.PROXY_UNTRUSTED
        assert proxy.heads == [], "nothing was sent to it"
    nursery.cancel_scope.cancel()


async def test_a_proxys_certificate_has_to_be_for_its_name(nursery: trio.Nursery, tmp_path: Path) -> None:
    """A certificate of a trusted authority for another name is not enough."""
    certificate = make_certificate(tmp_path / "other.pem", "other.example.com")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    proxy = await start_connect_proxy(nursery, context=server)
    settings = ProxySettings.explicit(f"https://me:hunter2@127.0.0.1:{proxy.port}")
    with pytest.raises(ProxyError) as caught:
        await ProxyDial(settings, ssl_context=ssl.create_default_context(cafile=str(certificate)))(RELAY, 443)
    assert caught.value.failure.kind is K.PROXY_UNTRUSTED
    assert proxy.heads == [], "nothing was sent to it"
    nursery.cancel_scope.cancel()


async def test_https_to_a_proxy_without_tls(nursery: trio.Nursery) -> None:
    async def complain(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    failure = await fail(ScriptedProxy(nursery, complain), "https://proxy.corp")
    assert failure.kind is K.PROXY_FAILED
    assert "does not speak TLS" in failure.text
