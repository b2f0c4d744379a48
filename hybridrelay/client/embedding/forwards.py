"""Forwards for programs that do not use Trio: a local port or Unix socket, while a ``with`` block runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import overload

import trio

from ..._nursery import FlatNursery
from ..._own_address import EveryPort
from ..._unix_address import UnixAddress, parse_unix_address
from ...security import ConnectionString
from ...security.names import split_port
from ..client import open_client
from ..config import ClientConfig
from ..ingress.ports import run_forward
from .background import Background, background, take_result
from .shared import as_config

__all__ = ["BackgroundForward", "LocalAddress", "forward_in_thread"]

#: How long open connections may take to finish at the end of the block (seconds).
_GRACE_SECONDS = 1.0

#: An address and a port; or ``unix:/path``; or ``address:*``, for every port of the local name.
LocalAddress = tuple[str, int] | str


@overload
def forward_in_thread(
    config: ClientConfig | ConnectionString | str, *, listen: tuple[str, int] = ("127.0.0.1", 0)
) -> AbstractContextManager[tuple[str, int]]: ...


@overload
def forward_in_thread(
    config: ClientConfig | ConnectionString | str, *, listen: str
) -> AbstractContextManager[str]: ...


def forward_in_thread(
    config: ClientConfig | ConnectionString | str, *, listen: LocalAddress = ("127.0.0.1", 0)
) -> AbstractContextManager[tuple[str, int]] | AbstractContextManager[str]:
    """``with forward_in_thread(text) as (host, port)``: a local port that leads to the target.

    The background thread of this process runs the forward until the block ends. Connections that are open then have
    one second to finish, and are reset after that. The same happens when the interpreter exits during the block.

    Every user of the machine can connect to a port on a loopback address. To a Unix socket, only those can connect
    who may write to its file: ``with forward_in_thread(text, listen="unix:/run/app/db") as path``. But a Unix socket
    cannot be reset: if the target or the session fails, the application reads an end of file. Use it only for
    protocols that say how long their messages are. For a library that accepts a socket, use `open_socket`.

    A forked child may connect to the address as well, but the forward belongs to the process that has started it. In
    a child, the end of the block does nothing.

    Args:
        config: an application's connection string, as text or parsed; or a `ClientConfig` with one, whose `dialer` is
            called in the thread.
        listen: the local address: a host and a port, where 0 means any free port; or ``unix:/path``, or
            ``unix:/path,mode=660``. The default mode is 600: only this user can connect. Or ``127.0.0.1:*``: every
            port of the local name in the connection string, at this address, which is what ``as`` then gives.

    Raises:
        HybridRelayError: the connection string is wrong, the address cannot be used, or the relay refuses the key
            permanently. This is raised before the block runs. An error that ends the forward later is raised at the
            end of the block, unless the block itself raises.
        OSError: no thread can be started (EAGAIN).
        ValueError: `listen` is text of another form.
    """
    return _forward_in_thread(config, listen)  # type: ignore[return-value]  # the address is of the type of `listen`


@contextmanager
def _forward_in_thread(config: ClientConfig | ConnectionString | str, listen: LocalAddress) -> Iterator[LocalAddress]:
    forward = BackgroundForward(config, listen)
    started = forward.start()
    address = take_result(started, started.result, forward.dispose)
    try:
        yield address
    except BaseException:
        stopped = forward.stop()
        take_result(stopped, stopped.result, forward.dispose)
        raise
    stopped = forward.stop()
    failure = take_result(stopped, stopped.result, forward.dispose)
    if failure is not None:
        raise failure


class BackgroundForward:
    """A forward that runs in the background thread.

    Args and raises: see `forward_in_thread`.
    """

    def __init__(self, config: ClientConfig | ConnectionString | str, listen: LocalAddress) -> None:
        self._config = as_config(config)
        self._listen = _parse_local(listen) if isinstance(listen, str) else listen
        self._thread: Background | None = None
        self._scope = trio.CancelScope()
        self._stop = trio.Event()
        self._ended = trio.Event()
        self._failure: Exception | None = None

    def start(self) -> Future[LocalAddress]:
        """Start the forward. The result is its address, once the first attempt to connect has succeeded or failed."""
        self._thread = thread = background()
        return thread.call(partial(self._start, thread), dispose=self.dispose)

    def stop(self) -> Future[Exception | None]:
        """Stop the forward. The result is the error that had already ended it, if any. Cancelling the future resets
        connections immediately."""
        thread = self._thread
        if thread is None or not thread.is_usable:  # in a forked child, or when the interpreter exits
            nothing: Future[Exception | None] = Future()
            nothing.set_result(None)
            return nothing
        return thread.call(self._wait_stopped, dispose=self.dispose)

    def dispose(self, _result: object) -> None:
        """End the forward at once, because nobody uses it."""
        thread = self._thread
        if thread is not None:
            thread.soon(self._scope.cancel)

    # --- in the thread

    async def _start(self, thread: Background) -> LocalAddress:
        address: LocalAddress = await thread.services.start(self._run, thread)
        return address

    async def _run(self, thread: Background, *, task_status: trio.TaskStatus[LocalAddress]) -> None:
        is_started = False
        try:
            with self._scope:
                async with open_client(self._config) as client, FlatNursery() as nursery:
                    nursery.start_soon(self._stop_with, thread)
                    async with FlatNursery() as serving:
                        serve = partial(run_forward, client, [self._listen], stop=self._stop, grace=_GRACE_SECONDS)
                        bound = await serving.start(serve)
                        is_started = True
                        task_status.started(_shown(self._listen, bound))
                    nursery.cancel_scope.cancel()
        except Exception as exc:
            if not is_started:
                raise
            self._failure = exc
        finally:
            self._ended.set()

    async def _stop_with(self, thread: Background) -> None:
        """Stop the forward when the thread stops."""
        await thread.stopping.wait()
        self._stop.set()

    async def _wait_stopped(self) -> Exception | None:
        self._stop.set()
        try:
            await self._ended.wait()
        except trio.Cancelled:
            self._scope.cancel()
            raise
        return self._failure


def _parse_local(text: str) -> EveryPort | UnixAddress:
    if not text.startswith("unix:") and text.endswith(":*"):
        return EveryPort(split_port(text)[0])
    return parse_unix_address(text)


def _shown(listen: tuple[str, int] | EveryPort | UnixAddress, bound: Sequence[tuple[str, int]]) -> LocalAddress:
    match listen:
        case UnixAddress(path):
            return path
        case EveryPort(host):
            return host
    return bound[0]
