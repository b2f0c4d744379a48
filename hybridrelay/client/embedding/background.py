"""The background thread: runs Trio for programs that do not use it. A process has at most one.

Rules:

1. The thread is started by the first call, and then waits for further ones. It is a daemon thread, so it never keeps
   the process from ending.
2. A *call* is an async function that runs in the thread, for a caller in another thread or in another event loop. Its
   result is a `concurrent.futures.Future`. Cancelling the future cancels the call. If the call had already
   succeeded, its result is disposed of, so that no socket is left over.
3. A *service* is a task in the thread that outlives the call that has started it: a client, or a forward. It ends
   soon after `stopping` is set.
4. When the interpreter exits, calls are cancelled and services are stopped. What applications have sent until then is
   still delivered, within a limited time.
5. A forked child has no background thread, because threads are not copied. It closes its copies of the thread's
   sockets, and its first call starts a thread of its own.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TypeVar

import trio

from ..._threads import thread_errors
from ...errors import ConfigurationError, HybridRelayError
from ...protocol.reasons import Reason
from ...streams.forking import OwnSockets

__all__ = ["Background", "abandon", "background", "call_and_wait", "take_result"]

T = TypeVar("T")

#: How long services may take to stop when the interpreter exits (seconds). A client that is still delivering the last
#: bytes of a stream then has another ten seconds or so.
_STOP_SECONDS = 10.0
#: How long the exit of the interpreter waits for the thread (seconds): longer than stopping and delivering take.
_EXIT_SECONDS = 25.0


class Background:
    """The background thread of this process. Use `background` to get it.

    Raises:
        OSError: no thread can be started (EAGAIN).
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        #: The sockets of the thread, which children of this process close.
        self.sockets = OwnSockets()
        #: Set when services have to stop. Belongs to the thread.
        self.stopping = trio.Event()
        self._lock = threading.Lock()
        self._token: trio.lowlevel.TrioToken | None = None
        #: What to do when the Trio run has started.
        self._early: list[Callable[[], object]] = []
        self._futures: set[Future[object]] = set()
        self._has_ended = False
        self._calls: trio.Nursery | None = None
        self._services: trio.Nursery | None = None
        self._thread = threading.Thread(target=self._run, name="hybridrelay-background", daemon=True)
        with thread_errors():
            self._thread.start()

    @property
    def is_usable(self) -> bool:
        """Whether calls can be made."""
        return not self._has_ended and self.pid == os.getpid()

    @property
    def services(self) -> trio.Nursery:
        """The nursery for services, which must not raise. For use in the thread."""
        assert self._services is not None, "the thread runs"
        return self._services

    def call(self, function: Callable[[], Awaitable[T]], *, dispose: Callable[[T], None]) -> Future[T]:
        """Run an async function in the thread. Returns at once.

        Args:
            function: its exceptions are those of the future.
            dispose: called in the thread with a result that nobody takes, because the future was cancelled.

        Raises:
            RuntimeError: this was called in the thread itself, which would wait for itself.
            HybridRelayError: the interpreter is exiting.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "hybridrelay cannot be called in its own background thread, for instance by a dialer: it would wait "
                "for itself"
            )
        future: Future[T] = Future()
        scope = trio.CancelScope()
        future.add_done_callback(lambda done: self.soon(scope.cancel) if done.cancelled() else None)
        with self._lock:
            if self._has_ended:
                raise _exiting()
            self._futures.add(future)  # type: ignore[arg-type]  # invariant, and only exceptions are set
        self.soon(lambda: self._begin(function, dispose, future, scope))
        return future

    def stop(self) -> None:
        """Stop the thread, as the exit of the interpreter does. Returns when it has ended, after 25 seconds at the
        latest."""
        self.soon(self.stopping.set)
        self._thread.join(_EXIT_SECONDS)

    def soon(self, function: Callable[[], object]) -> None:
        """Call a function in the thread, as soon as possible. Has no effect if the thread has ended."""
        with self._lock:
            if self._token is None:
                self._early.append(function)
                return
            token = self._token
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(function)

    # --- in the thread

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            trio.run(self._main, restrict_keyboard_interrupt_to_checkpoints=True)
        except BaseException as exc:
            failure = exc
            raise  # a bug, which `threading.excepthook` reports
        finally:
            with self._lock:
                self._has_ended = True
                futures = list(self._futures)
            for future in futures:
                _set_exception(future, _exiting(failure))

    async def _main(self) -> None:
        self.sockets.use()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as self._services:
                async with trio.open_nursery() as self._calls:
                    with self._lock:
                        self._token = trio.lowlevel.current_trio_token()
                        early, self._early = self._early, []
                    for function in early:
                        function()
                    await self.stopping.wait()
                    self._calls.cancel_scope.cancel()
                scope.deadline = trio.current_time() + _STOP_SECONDS

    def _begin(
        self,
        function: Callable[[], Awaitable[T]],
        dispose: Callable[[T], None],
        future: Future[T],
        scope: trio.CancelScope,
    ) -> None:
        if self.stopping.is_set() or self._calls is None:
            _set_exception(future, _exiting())
        else:
            self._calls.start_soon(self._call, function, dispose, future, scope)

    async def _call(
        self,
        function: Callable[[], Awaitable[T]],
        dispose: Callable[[T], None],
        future: Future[T],
        scope: trio.CancelScope,
    ) -> None:
        try:
            with scope:
                result = await function()
                try:
                    future.set_result(result)
                except InvalidStateError:  # cancelled in the meantime
                    dispose(result)
        except Exception as exc:  # noqa: BLE001 - raised in the caller
            _set_exception(future, exc)
        except BaseException:  # the thread stops
            _set_exception(future, _exiting())
            raise
        finally:
            with self._lock:
                self._futures.discard(future)


def _set_exception(future: Future[T], error: BaseException) -> None:
    with suppress(InvalidStateError):  # cancelled: nobody waits for it
        future.set_exception(error)


def _exiting(cause: BaseException | None = None) -> HybridRelayError:
    if cause is not None:
        error = HybridRelayError(f"the background thread has failed: {cause!r}", reason=Reason.INTERNAL_ERROR)
        error.__cause__ = cause
        return error
    return HybridRelayError(
        "the interpreter is exiting, so nothing can be opened any more",
        reason=Reason.GOING_AWAY,
        remedy="open sockets and forwards before the program ends, and not in functions that run at its exit",
    )


def call_and_wait(
    function: Callable[[Background], Awaitable[T]], *, dispose: Callable[[T], None] = lambda _result: None
) -> T:
    """Run an async function in the background thread, and block until it has returned.

    Args:
        function: called with the thread.
        dispose: called with a result that nobody takes, because waiting for it was interrupted.

    Raises:
        HybridRelayError: the interpreter is exiting, the background thread has failed, or gevent or eventlet has
            replaced threads.
        OSError: no thread can be started (EAGAIN).
        RuntimeError: this was called in the background thread itself.
        Exception: any exception of the function.

    If interrupted, such as by KeyboardInterrupt, the function is cancelled.
    """
    thread = background()
    future = thread.call(lambda: function(thread), dispose=dispose)
    return take_result(future, future.result, dispose)


def take_result(future: Future[T], wait: Callable[[], T], dispose: Callable[[T], None]) -> T:
    """Return what `wait` returns, which waits for the future. If that is interrupted, the call is cancelled."""
    try:
        return wait()
    except BaseException:
        abandon(future, dispose)
        raise


def abandon(future: Future[T], dispose: Callable[[T], None]) -> None:
    """Cancel a call, or dispose of its result if there is already one."""
    if not future.cancel() and not future.cancelled() and future.exception() is None:
        dispose(future.result())


# --- the thread of this process

_lock = threading.Lock()
_background: Background | None = None
_is_exiting = False


def background() -> Background:
    """Return the background thread of this process, which is started if there is none.

    Raises:
        HybridRelayError: the interpreter is exiting, or gevent or eventlet has replaced threads.
        OSError: no thread can be started (EAGAIN).
    """
    global _background  # noqa: PLW0603 - one for each process
    _check_threads()
    with _lock:
        if _is_exiting:
            raise _exiting()
        if _background is None or not _background.is_usable:
            _background = Background()
            _stop_with_worker_process()
        return _background


def _check_threads() -> None:
    """Check that threads are those of the system.

    Raises:
        ConfigurationError: they are not. A background thread would stop all others, and wait for itself.
    """
    gevent = sys.modules.get("gevent.monkey")
    eventlet = sys.modules.get("eventlet.patcher")
    if (gevent is not None and gevent.is_module_patched("threading")) or (
        eventlet is not None and eventlet.is_monkey_patched("thread")
    ):
        raise ConfigurationError(
            "gevent or eventlet has replaced the threads of this program, and hybridrelay needs a real one",
            remedy="run 'hybridrelay forward' beside the program, and connect to its port; or do not replace threads "
            "(gevent.monkey.patch_all(thread=False))",
        )


def _stop_with_worker_process() -> None:
    """Let the thread stop at the end of a forked process of `multiprocessing`, which does not run the functions that
    are registered with `atexit`."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, _exit, exitpriority=-100)


def _exit() -> None:
    """Stop the thread, because the interpreter exits."""
    global _is_exiting  # noqa: PLW0603 - of this process
    with _lock:
        _is_exiting = True
        running = _background
    if running is not None and running.is_usable:
        running.stop()


def _begin_child() -> None:
    """Forget the thread of the parent, in a child that was forked."""
    global _background, _is_exiting
    _lock.release()
    parents, _background, _is_exiting = _background, None, False
    if parents is not None:
        parents.sockets.close_copies()


atexit.register(_exit)
if hasattr(os, "register_at_fork"):
    # The lock is held during the fork, so that the child does not get a copy that another thread holds.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_begin_child)
