"""The worked example of an authenticator in docs/connectivity.md."""

from __future__ import annotations

import base64
import re
import sys
import types
from pathlib import Path

import pytest
import trio

from hybridrelay.connectivity import FailureKind, Proxy, ProxyAuthenticator

from .proxies import ScriptedProxy, echo, read_head

DOCS = Path(__file__).parents[2] / "docs" / "connectivity.md"


class Context:
    """Stands in for what `spnego.client` returns: a conversation of two rounds."""

    def __init__(self, **arguments: str) -> None:
        assert arguments == {"hostname": "proxy.corp", "service": "http", "protocol": "negotiate"}

    def step(self, received: bytes | None) -> bytes | None:
        return {None: b"first", b"challenge": b"second", b"rejected": None}[received]


@pytest.fixture
def negotiate(monkeypatch: pytest.MonkeyPatch) -> ProxyAuthenticator:
    """The authenticator that the example defines."""
    found = re.search(r"<!-- example: authenticator -->\n```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert found
    spnego = types.ModuleType("spnego")
    vars(spnego)["client"] = Context
    monkeypatch.setitem(sys.modules, "spnego", spnego)
    # Not inherited: the example begins without `annotations` of this file.
    code = compile(found[1], str(DOCS), "exec", dont_inherit=True)
    namespace: dict[str, ProxyAuthenticator] = {}
    exec(code, namespace)
    return namespace["negotiate"]


async def test_the_example_opens_a_tunnel(nursery: trio.Nursery, negotiate: ProxyAuthenticator) -> None:
    tokens: list[str] = []

    async def proxy(stream: trio.abc.HalfCloseableStream) -> None:
        for challenge in ("Negotiate", f"Negotiate {base64.b64encode(b'challenge').decode()}"):
            tokens.extend(re.findall(r"(?i)proxy-authorization: (.*)\r\n", await read_head(stream)))
            answer = f"HTTP/1.1 407 x\r\nProxy-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n"
            await stream.send_all(answer.encode())
        tokens.extend(re.findall(r"(?i)proxy-authorization: (.*)\r\n", await read_head(stream)))
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        await echo(stream)

    dial = ScriptedProxy(nursery, proxy).through(authenticator=negotiate)
    async with await dial("relay.example.com", 443) as stream:
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
    assert tokens == [f"Negotiate {base64.b64encode(token).decode()}" for token in (b"first", b"second")]


async def test_the_example_gives_up(negotiate: ProxyAuthenticator) -> None:
    answer = negotiate(Proxy("http", "proxy.corp", 3128))
    assert await answer([]) is None
    assert await answer(["Basic realm=x"]) is None
    assert await answer([f"Negotiate {base64.b64encode(b'rejected').decode()}"]) is None


def test_every_reason_is_in_the_docs() -> None:
    text = DOCS.read_text("utf-8")
    unexplained = {FailureKind.OTHER, FailureKind.FORBIDDEN_LOCALLY}
    assert [kind for kind in FailureKind if f"`{kind}`" not in text and kind not in unexplained] == []
