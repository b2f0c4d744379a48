"""The conformance suite for transports, over real sockets on loopback.

A transport that passes `check_transport` meets the contract of `hybridrelay.abc.Transport`. Each check has a name, so
that a test runner can show the checks one by one::

    @pytest.mark.parametrize("check", [pytest.param(c, id=n) for n, c in transport_checks(transport)])
    async def test_conformance(check):
        await check()
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import trio

from ..abc import Purpose, Route, Transport
from . import _hostile, _streams
from ._pairs import Insert, connect_pair

__all__ = ["check_transport", "open_pair", "transport_checks"]

#: The time limit of one check (seconds). No check takes nearly as long. The limit ends a check that hangs, so that
#: its name is reported.
CHECK_TIMEOUT = 60


@contextlib.asynccontextmanager
async def open_pair(
    transport: Transport,
    route: Route,
    *,
    purpose: Purpose = Purpose.DATA,
    insert: Insert | None = None,
) -> AsyncIterator[tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]]:
    """Open a connection over ``route`` through a real listener on this machine.

    Args:
        transport: the transport to use.
        route: the route to use.
        purpose: determines the port.
        insert: inserts something between the two ends, such as `Middlebox.insert`.

    Yields:
        The client's stream and the server's. Leaving the block closes both, forcefully.
    """
    near, far = await connect_pair(transport, route, purpose=purpose, insert=insert)
    client, server = near.stream, far.stream
    try:
        yield client, server
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(client)
            await trio.aclose_forcefully(server)


def transport_checks(transport: Transport) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
    """Yield every check of every route, with its name and as a function to be awaited."""
    for route in transport.routes:
        for check in (*_streams.CHECKS, *_hostile.CHECKS):
            name = check.__name__.removeprefix("check_")
            yield f"{route.name}-{name}", functools.partial(_run, check, transport, route)


async def check_transport(transport: Transport) -> None:
    """Run every check.

    Raises:
        AssertionError: the transport does not meet its contract.
        trio.TooSlowError: a check did not end within `CHECK_TIMEOUT`.
        Exception: any other exception of the transport.

    A note of the exception names the check.
    """
    for name, check in transport_checks(transport):
        try:
            await check()
        except BaseException as exc:
            exc.add_note(f"in the check {name} of the transport {transport.name}")
            raise


async def _run(check: Callable[[Transport, Route], Awaitable[None]], transport: Transport, route: Route) -> None:
    with trio.fail_after(CHECK_TIMEOUT):
        await check(transport, route)
