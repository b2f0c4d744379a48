"""A forward for programs that do not use Trio: a ``with`` block, during which a thread runs the forward."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import trio

from ..._nursery import FlatNursery
from ..._threads import thread_errors
from ...security import ConnectionString
from ..client import open_client
from ..config import ClientConfig
from .ports import run_forward

#: How long open connections may take to finish at the end of the block (seconds).
_GRACE_SECONDS = 1.0


@contextmanager
def forward_in_thread(
    config: ClientConfig | ConnectionString | str, *, listen: tuple[str, int] = ("127.0.0.1", 0)
) -> Iterator[tuple[str, int]]:
    """``with forward_in_thread(text) as (host, port)``: a local port that leads to the target.

    A thread runs the forward until the block ends. Connections that are open then have one second to finish, and are
    reset after that.

    Args:
        config: an application's connection string, as text or parsed; or a `ClientConfig` with one, whose `dialer` is
            called in that thread.
        listen: the local address; port 0 means any free port.

    Raises:
        HybridRelayError: the connection string is wrong, or the relay refuses it permanently. This is raised before
            the block runs. An error that ends the forward later is raised at the end of the block, unless the block
            itself raises.
        OSError: no thread can be started (EAGAIN).
    """
    started: queue.SimpleQueue[tuple[trio.lowlevel.TrioToken, trio.Event, tuple[str, int]] | None]
    started = queue.SimpleQueue()
    failure: list[BaseException] = []

    async def main() -> None:
        stop = trio.Event()
        async with (
            open_client(config) as client,
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
        with suppress(trio.RunFinishedError):  # it has already failed; the error is raised below
            token.run_sync_soon(stop.set)
        thread.join()
    if failure:
        raise failure[0]
