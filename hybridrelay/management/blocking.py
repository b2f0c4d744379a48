"""The client of the management API for synchronous code: a Trio loop in a thread sends the requests."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import trio

from .._threads import thread_errors
from .client import ManagementClient

__all__ = ["BlockingClient", "blocking_client"]

T = TypeVar("T")


class BlockingClient:
    """Sends requests from the thread that made it. Only `blocking_client` makes one.

    An exception that interrupts a call, such as KeyboardInterrupt, leaves the request running until the block of
    `blocking_client` ends. No further call may be made then.
    """

    def __init__(self, client: ManagementClient, token: trio.lowlevel.TrioToken) -> None:
        self._client = client
        self._token = token

    def run(self, function: Callable[[ManagementClient], Coroutine[Any, Any, T]]) -> T:
        """Call a function with the client in the Trio loop, and return its result.

        Raises:
            Exception: any exception of the function.
        """
        return trio.from_thread.run(function, self._client, trio_token=self._token)


@contextmanager
def blocking_client(client: ManagementClient) -> Iterator[BlockingClient]:
    """Run a Trio loop in a thread during the block, for calls with `client`, which is closed at the end.

    Raises:
        OSError: no thread can be started, or the system has no descriptors for a loop.
    """
    started: queue.SimpleQueue[tuple[trio.lowlevel.TrioToken, trio.CancelScope] | BaseException] = queue.SimpleQueue()
    has_begun = False

    async def main() -> None:
        nonlocal has_begun
        with trio.CancelScope() as scope:
            started.put((trio.lowlevel.current_trio_token(), scope))
            has_begun = True
            await trio.sleep_forever()
        with trio.CancelScope(shield=True):
            await client.aclose()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as exc:
            if has_begun:
                raise  # a bug, which `threading.excepthook` reports
            started.put(exc)

    # A daemon, so that an interrupted program can end while a name is being resolved.
    thread = threading.Thread(target=run, name="management client", daemon=True)
    with thread_errors():
        thread.start()
    begun = started.get()
    if isinstance(begun, BaseException):
        raise begun
    token, scope = begun
    try:
        yield BlockingClient(client, token)
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join()
