"""A middlebox that accepts every connection and never answers. Takes the port as argument."""

from __future__ import annotations

import sys
from functools import partial

import trio


async def drop(stream: trio.SocketStream) -> None:
    try:
        async for _ in stream:
            pass
    except trio.BrokenResourceError:
        pass


async def main() -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_tcp, drop, int(sys.argv[1]), host="0.0.0.0", backlog=4096))
        print("ready", flush=True)


trio.run(main)
