"""SOCKS5: the requests that are sent, and how every answer is handled."""

from __future__ import annotations

from typing import TypedDict

import pytest
import trio
import trio.testing

from hybridrelay.connectivity import FailureKind, ProxyError
from hybridrelay.streams import receive_exactly

from .proxies import Script, ScriptedProxy, echo, silence

K = FailureKind
BOUND = bytes([0, 1, 127, 0, 0, 1, 0, 80])


def socks(
    *,
    method: bytes = b"\5\0",
    status: bytes | None = None,
    reply: bytes = b"\5\0" + BOUND,
    said: list[bytes] | None = None,
    then: Script = echo,
) -> Script:
    """A SOCKS5 proxy that gives these answers."""
    said = [] if said is None else said

    async def script(stream: trio.abc.HalfCloseableStream) -> None:
        head = await receive_exactly(stream, 2)
        said.append(head + await receive_exactly(stream, head[1]))
        await stream.send_all(method)
        if status is not None:
            said.append(bytes(await stream.receive_some()))
            await stream.send_all(status)
        if method[1] != 0xFF:
            said.append(bytes(await stream.receive_some()))
            for byte in reply:
                await stream.send_all(bytes([byte]))
                await trio.testing.wait_all_tasks_blocked()
            await then(stream)

    return script


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("relay.example.com", b"\3\x11relay.example.com"),
        ("10.1.2.3", b"\1\x0a\1\2\3"),
        ("2001:db8::1", b"\4" + bytes.fromhex("20010db8000000000000000000000001")),
    ],
)
async def test_a_socks_proxy_is_asked_for_the_address(
    nursery: trio.Nursery, scheme: str, host: str, address: bytes
) -> None:
    said: list[bytes] = []
    proxy = ScriptedProxy(nursery, socks(said=said))
    async with await proxy.through(f"{scheme}://proxy")(host, 9350) as stream:
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
    assert proxy.dialed == [("proxy", 1080)]
    assert said == [b"\5\1\0", b"\5\1\0" + address + (9350).to_bytes(2, "big")]


async def test_user_and_password_are_sent_to_the_proxy(nursery: trio.Nursery) -> None:
    said: list[bytes] = []
    proxy = ScriptedProxy(nursery, socks(method=b"\5\2", status=b"\1\0", said=said))
    async with await proxy.through("socks5://m%C3%BC:hunter2@proxy")("a.b", 1):
        pass
    assert said[:2] == [b"\5\2\0\2", b"\1\3m\xc3\xbc\7hunter2"]


async def test_user_and_password_that_nobody_wants_to_know(nursery: trio.Nursery) -> None:
    said: list[bytes] = []
    proxy = ScriptedProxy(nursery, socks(said=said))
    async with await proxy.through("socks5://me:hunter2@proxy")("a.b", 1):
        pass
    assert not any(b"hunter2" in what for what in said)


@pytest.mark.parametrize(
    "bound", [BOUND, b"\0\4" + bytes(18), b"\0\3\5a.b.c\0\1", b"\0\3\0\0\1", b"\xff" + BOUND[1:]]
)
async def test_whatever_the_bound_address_the_next_byte_is_the_tunnels(nursery: trio.Nursery, bound: bytes) -> None:
    async def greet(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(b"hello")

    proxy = ScriptedProxy(nursery, socks(reply=b"\5\0" + bound, then=greet))
    async with await proxy.through("socks5://proxy")("a.b", 1) as stream:
        assert await receive_exactly(stream, 5) == b"hello"


NO_SOCKS = "does not speak SOCKS5"
FAILURES: list[tuple[str, dict[str, bytes], FailureKind, str]] = [
    ("socks5://p", {"method": b"\5\xff"}, K.PROXY_AUTHENTICATION, "requires authentication"),
    ("socks5://me:hunter2@p", {"method": b"\5\xff"}, K.PROXY_AUTHENTICATION, "does not accept user names"),
    ("socks5://me:hunter2@p", {"method": b"\5\2", "status": b"\1\1"}, K.PROXY_AUTHENTICATION, "does not accept"),
    ("socks5://me:hunter2@p", {"method": b"\5\2", "status": b"\1\xff"}, K.PROXY_AUTHENTICATION, "does not accept"),
    ("socks5://p", {"method": b"\5\2"}, K.PROXY_FAILED, NO_SOCKS),
    ("socks5://p", {"method": b"\5\1"}, K.PROXY_FAILED, NO_SOCKS),
    ("socks5://p", {"method": b"\4\0"}, K.PROXY_FAILED, NO_SOCKS),
    ("socks5://p", {"method": b"HTTP/1.1 400 Bad"}, K.PROXY_FAILED, NO_SOCKS),
    ("socks5://p", {"reply": b"\5\1" + BOUND}, K.PROXY_CANNOT_CONNECT, "general failure"),
    ("socks5://p", {"reply": b"\5\2" + BOUND}, K.PROXY_REFUSED, "does not allow connections to relay:9350"),
    ("socks5://p", {"reply": b"\5\3" + BOUND}, K.PROXY_CANNOT_CONNECT, "cannot reach the network of relay:9350"),
    ("socks5://p", {"reply": b"\5\4" + BOUND}, K.PROXY_CANNOT_CONNECT, "the host of relay:9350"),
    ("socks5://p", {"reply": b"\5\5" + BOUND}, K.PROXY_CANNOT_CONNECT, "connection refused by relay:9350"),
    ("socks5://p", {"reply": b"\5\6" + BOUND}, K.PROXY_CANNOT_CONNECT, "TTL expired"),
    ("socks5://p", {"reply": b"\5\7" + BOUND}, K.PROXY_REFUSED, "does not support CONNECT"),
    ("socks5://p", {"reply": b"\5\x08" + BOUND}, K.PROXY_CANNOT_CONNECT, "address type"),
    ("socks5://p", {"reply": b"\5\x09" + BOUND}, K.PROXY_FAILED, "answers 9"),
    ("socks5://p", {"reply": b"\5\xff" + BOUND}, K.PROXY_FAILED, "answers 255"),
    ("socks5://p", {"reply": b"\4\0" + BOUND}, K.PROXY_FAILED, NO_SOCKS),
    ("socks5://p", {"reply": b"\5\0\0\2" + BOUND}, K.PROXY_FAILED, NO_SOCKS),
]


class Answers(TypedDict, total=False):
    """Of `socks`, where they are not the usual ones."""

    method: bytes
    status: bytes
    reply: bytes


@pytest.mark.parametrize(("url", "answers", "kind", "text"), FAILURES)
async def test_every_failure_is_reported_as_such(
    nursery: trio.Nursery, url: str, answers: Answers, kind: FailureKind, text: str
) -> None:
    proxy = ScriptedProxy(nursery, socks(then=silence, **answers))
    with pytest.raises(ProxyError) as caught:
        await proxy.through(url)("relay", 9350)
    failure = caught.value.failure
    assert failure.kind is kind
    assert text in failure.text
    assert failure.remedy
    assert "hunter2" not in f"{failure} {caught.value!r}"
    await proxy.assert_all_closed()


@pytest.mark.parametrize("length", range(12))
async def test_a_proxy_that_hangs_up(nursery: trio.Nursery, length: int) -> None:
    async def hang_up(stream: trio.abc.HalfCloseableStream) -> None:
        await receive_exactly(stream, 3)
        answers = b"\5\0" + b"\5\0" + BOUND
        await stream.send_all(answers[: min(length, 2)])
        if length > 2:
            await stream.receive_some()
            await stream.send_all(answers[2:length])

    proxy = ScriptedProxy(nursery, hang_up)
    with pytest.raises(ProxyError, match="closed the connection") as caught:
        await proxy.through("socks5://p")("relay", 1)
    assert caught.value.failure.kind is K.PROXY_FAILED
    await proxy.assert_all_closed()
