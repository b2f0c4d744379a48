"""A forward for programs that do not use Trio: a plain ``with`` block, and a thread that runs it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import trio

from .._defaults import OPEN_PATIENCE
from .._nursery import FlatNursery
from .._threads import thread_errors
from ..abc import Dialer
from ..connectivity.discovery import AUTO
from ..security import ConnectionString
from .client import open_client
from .forward import run_forward

#: For connections that the program has just closed to come to their end in good order (seconds).
_GRACE_SECONDS = 1.0


@contextmanager
def forward_in_thread(
    connection_string: str | ConnectionString,
    *,
    listen: tuple[str, int] = ("127.0.0.1", 0),
    mode: str = AUTO,
    dialer: Dialer | None = None,
    open_patience: float = OPEN_PATIENCE,
) -> Iterator[tuple[str, int]]:
    """``with forward_in_thread(text) as (host, port)``: a local port that leads to the target.

    A thread runs the forward until the block ends; connections that are open then have a second to finish, and are
    reset.

    Args:
        connection_string: an application's, as text or parsed.
        listen: local address; port 0 takes any that is free.
        mode: ``auto``, or the name of the only transport allowed.
        dialer: as in `open_client`. It is called in that thread.
        open_patience: as in `open_client`: how long a connection waits for a session, in seconds.

    Raises:
        HybridRelayError: before the block: the string is wrong, or the relay refuses it for good. An error that ends
            the forward later is raised when the block ends, unless the block raises.
        OSError: no thread can be started (EAGAIN).
    """
    started: queue.SimpleQueue[tuple[trio.lowlevel.TrioToken, trio.Event, tuple[str, int]] | None]
    started = queue.SimpleQueue()
    failure: list[BaseException] = []

    async def main() -> None:
        stop = trio.Event()
        async with (
            open_client(connection_string, mode=mode, dialer=dialer, open_patience=open_patience) as client,
            FlatNursery() as nursery,
        ):
            serve = partial(run_forward, client, [listen], stop=stop, grace=_GRACE_SECONDS)
            bound = await nursery.start(serve)
            started.put((trio.lowlevel.current_trio_token(), stop, bound[0]))

    def run() -> None:
        try:
            trio.run(main, restrict_keyboard_interrupt_to_checkpoints=True)
        except BaseException as exc:  # noqa: BLE001 - handed to the thread that waits for it
            failure.append(exc)
        finally:
            started.put(None)

    thread = threading.Thread(target=run, name="hybridrelay-forward", daemon=True)
    with thread_errors():
        thread.start()
    running = started.get()
    if running is None:
        thread.join()
        raise failure[0]
    token, stop, address = running
    try:
        yield address
    finally:
        with suppress(trio.RunFinishedError):  # it failed already; said below
            token.run_sync_soon(stop.set)
        thread.join()
    if failure:
        raise failure[0]
