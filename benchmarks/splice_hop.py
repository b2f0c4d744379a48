"""A plaintext forwarder with the code that moves bytes in the relay: ``python -m benchmarks.splice_hop LISTEN
TARGET``."""

from __future__ import annotations

import sys
from functools import partial

import trio

from hybridrelay.relay.service.pump import pump
from hybridrelay.relay.service.splice import PipePool

from .limits import raise_descriptor_limit
from .ports import HOST


async def serve(listen: int, target: int) -> None:
    """Forward a port of the loopback interface to another one, until cancelled."""
    pipes = PipePool()  # one for all, as in the relay: a pool keeps some pipes

    async def handle(near: trio.SocketStream) -> None:
        try:
            far = await trio.open_tcp_stream(HOST, target)
        except OSError:
            await trio.aclose_forcefully(near)
        else:
            await pump(near, far, pipes=pipes)

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_tcp, handle, listen, host=HOST))
        print("ready", flush=True)


def main() -> None:
    """See the module's docstring."""
    raise_descriptor_limit()
    listen, target = map(int, sys.argv[1:])
    trio.run(serve, listen, target)


if __name__ == "__main__":
    main()
