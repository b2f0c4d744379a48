"""Counts the bytecodes for a message, a MiB or a stream: ``python -m benchmarks.micro.counts``.

Even if other work on the machine disturbs all measurements of time, counts show whether a change has made a code path
longer, and in which function. Everything except the relay runs in one process: the client's bridge, both ends of a
session over TLS, and the connector's bridge. A count is the difference between a long run and a short one, divided by
the number of units. It does not include system calls and C code (encryption, copies).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from types import CodeType, FrameType
from typing import Any
from unittest.mock import patch

import trio

from hybridrelay.mux import DATA_CONFIG, Account, Budget, Session, SessionRole, bridge
from hybridrelay.streams import nowait as nowait_module
from hybridrelay.streams.nowait import NowaitStream, nowait

from .streams import drain, exchange, sockets, tls

_MIB = 1 << 20
#: Functions are named by the part of their file's path that follows one of these.
_ROOTS = ("/site-packages/", "/transports/", "/hybridrelay/", "/lib/")


class _Tunnel:
    """Two sessions that are connected over TLS."""

    def __init__(self, nursery: trio.Nursery, client: Session, server: Session) -> None:
        self._nursery = nursery
        self._client = client
        self._server = server

    async def open(self) -> tuple[trio.SocketStream, trio.SocketStream]:
        """Open a stream, and return the application's connection and the target's."""
        (application, local), (remote, target) = await sockets(), await sockets()
        self._nursery.start_soon(bridge, self._client.open_stream_nowait(), local)
        offer = await self._server.offers.receive()
        self._nursery.start_soon(bridge, offer.accept(), remote)
        return application, target


async def _echo(tunnel: _Tunnel, count: int) -> None:
    application, target = await tunnel.open()
    await exchange(nowait(application), nowait(target), count, 64)


async def _down(tunnel: _Tunnel, count: int) -> None:
    application, target = await tunnel.open()
    await _bulk(nowait(target), nowait(application), count)


async def _up(tunnel: _Tunnel, count: int) -> None:
    application, target = await tunnel.open()
    await _bulk(nowait(application), nowait(target), count)


async def _bulk(source: NowaitStream, sink: NowaitStream, count: int) -> None:
    async def send() -> None:
        for _ in range(4 * count):
            if not source.send_nowait(bytes(_MIB // 4)):
                await source.flush()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await drain(sink, count * _MIB)


async def _open(tunnel: _Tunnel, count: int) -> None:
    for _ in range(count):
        application, target = await tunnel.open()
        await exchange(nowait(application), nowait(target), 1, 64)
        await application.send_eof()
        await target.aclose()
        await application.aclose()


#: The cases: the unit, the function to run, and the number of units in a short and a long run.
_CASES: dict[str, tuple[str, Callable[[_Tunnel, int], Awaitable[None]], int, int]] = {
    "echo": ("64 bytes there and back", _echo, 50, 250),
    "down": ("1 MiB from the target to the application", _down, 5, 20),
    "up": ("1 MiB from the application to the target", _up, 5, 20),
    "open": ("a stream with one request and answer", _open, 10, 40),
}


async def _main(case: Callable[[_Tunnel, int], Awaitable[None]], count: int) -> None:
    channels = await tls()
    # The sessions have a budget and an account, as in the connector, because accounting for memory is a part of the
    # cost.
    client = Session.create(SessionRole.INITIATOR, config=DATA_CONFIG, budget=Budget(1 << 30))
    server = Session.create(SessionRole.ACCEPTOR, config=DATA_CONFIG, budget=Budget(1 << 30), account=Account())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run, channels[0])
        nursery.start_soon(server.run, channels[1])
        await client.wait_attached()
        await case(_Tunnel(nursery, client, server), count)
        nursery.cancel_scope.cancel()


def _count(case: Callable[[_Tunnel, int], Awaitable[None]], count: int) -> Counter[str]:
    """Return the bytecodes of one run, by function."""
    counts: Counter[CodeType] = Counter()

    def trace(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            counts[frame.f_code] += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        trio.run(_main, case, count)
    finally:
        sys.settrace(before)
    named: Counter[str] = Counter()
    for code, times in counts.items():
        named[_name(code)] += times
    return named


def _name(code: CodeType) -> str:
    path = code.co_filename
    for root in _ROOTS:
        path = path.rpartition(root)[2]
    return f"{path}:{code.co_qualname}"


def measure(name: str) -> dict[str, float]:
    """Return the bytecodes for one unit of a case, by function."""
    _, case, few, many = _CASES[name]
    # A turn ends after some milliseconds. Tracing is slow, so a turn would do less than usual in this time.
    with patch.object(nowait_module, "TURN_SECONDS", math.inf):
        _count(case, 2)  # does what happens only once, such as imports
        short, long = _count(case, few), _count(case, many)
    return {function: (times - short[function]) / (many - few) for function, times in long.items()}


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro.counts", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(_CASES), help="one case; may be repeated")
    parser.add_argument("--functions", type=int, default=0, metavar="N", help="list the N most expensive functions")
    args = parser.parse_args()
    for name in args.only or _CASES:
        found = measure(name)
        print(f"{name:6} {sum(found.values()):9.0f} bytecodes: {_CASES[name][0]}")
        for function, times in sorted(found.items(), key=lambda item: -item[1])[: args.functions]:
            print(f"       {times:9.1f} {function}")


if __name__ == "__main__":
    main()
