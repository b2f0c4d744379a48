"""The end of file of one direction travels alone: the other direction goes on."""

from __future__ import annotations

import hashlib

import trio

from ..deployments import Deployment
from ..receiving import receive_all
from .targets import exchange, random_pieces, receive_hash, serve

SIZE = 5_000_000


async def test_the_reply_comes_after_the_end_of_the_request(
    deployment: Deployment, nursery: trio.Nursery, mode: str
) -> None:
    """The target answers only when it has seen the end of file, and then at length."""

    async def target(stream: trio.SocketStream) -> None:
        _, digest = await receive_hash(stream)
        await stream.send_all(digest * (SIZE // len(digest)))
        await stream.send_eof()

    published = deployment.create("half", await serve(nursery, target))
    deployment.start_connector(published)
    forward = deployment.start_forward(published, mode=mode)
    request = b"".join(random_pieces(SIZE))
    digest = hashlib.sha256(request).digest()
    assert await exchange(forward.port, request) == digest * (SIZE // len(digest))
    nursery.cancel_scope.cancel()


async def test_the_request_goes_on_after_the_end_of_the_reply(
    deployment: Deployment, nursery: trio.Nursery, mode: str
) -> None:
    """The other way round: the target ends first, and still receives everything."""
    received: list[tuple[int, bytes]] = []
    done = trio.Event()

    async def target(stream: trio.SocketStream) -> None:
        await stream.send_all(b"welcome, and goodbye")
        await stream.send_eof()
        received.append(await receive_hash(stream))
        done.set()

    published = deployment.create("half", await serve(nursery, target))
    deployment.start_connector(published)
    forward = deployment.start_forward(published, mode=mode)
    request = b"".join(random_pieces(SIZE))
    async with await trio.open_tcp_stream("127.0.0.1", forward.port) as stream:
        assert await receive_all(stream) == b"welcome, and goodbye"
        await stream.send_all(request)
        await stream.send_eof()
        await done.wait()
    assert received == [(SIZE, hashlib.sha256(request).digest())]
    nursery.cancel_scope.cancel()
