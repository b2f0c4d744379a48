"""Worker processes, which move the bytes of joined pairs of sockets; see `relay.worker`.

The main process passes the two sockets of a pair to a worker and waits for its end. It reads the bytes that were
moved from memory that it shares with the worker. A worker that ends by itself ends its pairs, whose connections the
kernel then resets, so that sessions resume. It is replaced.
"""

from __future__ import annotations

import itertools
import mmap
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import attrs
import trio

from ..._nursery import FlatNursery
from ...events.relay_resources import SpliceUnavailable, WorkerEnded, WorkerNotStarted
from ...events.stream import EventStream
from ...streams.sockets import reset_on_close, tune_stream
from ..worker.messages import COUNTS_BYTES, SLOTS, Counts, Ended, Kind, Message, receive, send
from ..worker.splicing import SPLICE_RETRY_SECONDS
from .pace import PairPace
from .pump import Moved, PumpOutcome, PumpResult, abort, pump
from .splice import PipePool, can_splice

__all__ = ["Workers", "open_workers"]

#: How long a worker may take to end a pair, or to end itself, before it is killed (seconds).
_END_SECONDS = 2.0
#: A worker that has ended is replaced after this time (seconds); after twice this time if it ends again soon, and so
#: on, up to the maximum.
_REPLACE_SECONDS = 0.5
_MAX_REPLACE_SECONDS = 30.0
#: After a worker that ran for longer than this (seconds), the first of these times applies again.
_PROVEN_SECONDS = 10.0
_OUTCOMES: Mapping[int, PumpOutcome] = {
    Ended.FINISHED: PumpOutcome.FINISHED,
    Ended.A_BROKE: PumpOutcome.A_BROKE,
    Ended.B_BROKE: PumpOutcome.B_BROKE,
    Ended.ABORTED: PumpOutcome.WORKER_ENDED,
}


class _Counts:
    """The bytes of one pair, in the memory that is shared with its worker."""

    def __init__(self, counters: Counts, slot: int) -> None:
        self._counters = counters
        self._index = 2 * slot
        counters[self._index] = counters[self._index + 1] = 0

        self._final: tuple[int, int] | None = None

    @property
    def a_to_b(self) -> int:
        return self._counters[self._index] if self._final is None else self._final[0]

    @property
    def b_to_a(self) -> int:
        return self._counters[self._index + 1] if self._final is None else self._final[1]

    def keep(self) -> None:
        """Keep the present numbers, because the memory will be used for another pair."""
        self._final = self.a_to_b, self.b_to_a


@attrs.define(eq=False)
class _Pair:
    """A pair that a worker moves."""

    slot: int
    pace: PairPace
    counts: _Counts
    #: Set when the worker no longer has the pair.
    over: trio.Event = attrs.field(factory=trio.Event)
    outcome: PumpOutcome = PumpOutcome.WORKER_ENDED
    #: The sockets that the worker has returned.
    returned: tuple[trio.SocketStream, trio.SocketStream] | None = None
    is_returning: bool = False

    def end(self) -> None:
        """Note that the worker no longer has the pair."""
        self.counts.keep()
        self.over.set()


class _Worker:
    """One worker process while it runs."""

    def __init__(self, process: trio.Process, control: socket.socket, memory: mmap.mmap, events: EventStream) -> None:
        self.process = process
        self._events = events
        self.pairs: dict[int, _Pair] = {}
        self._control = control
        self._memory = memory
        self._counters = memoryview(memory).cast("Q")
        self._free: deque[int] = deque()
        self._next_slot = itertools.count()
        #: Messages that did not fit into the socket.
        self._unsent: deque[tuple[Kind, int]] = deque()
        self._has_unsent = trio.Event()

    @classmethod
    async def start(cls, events: EventStream) -> _Worker:
        """Start a process. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                memory = _shared_memory()
                try:
                    mapped = mmap.mmap(memory, COUNTS_BYTES)
                    inherited = (theirs.fileno(), memory)
                    # Without -P, modules would be looked for in the current directory first.
                    command = [sys.executable, "-P", "-m", "hybridrelay.relay.worker", *map(str, inherited)]
                    process = await trio.lowlevel.open_process(command, stdin=subprocess.DEVNULL, pass_fds=inherited)
                finally:
                    os.close(memory)
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        return cls(process, ours, mapped, events)

    @property
    def status(self) -> str:
        """How the process has ended."""
        code = self.process.returncode or 0
        if code >= 0:
            return f"exit code {code}"
        try:
            return signal.Signals(-code).name
        except ValueError:  # most real-time signals have no name
            return f"signal {-code}"

    async def aclose(self) -> None:
        """End the process, which resets the connections that it has. Its pairs are over then. Not cancelled."""
        with trio.CancelScope(shield=True):
            trio.lowlevel.notify_closing(self._control)
            self._control.close()
            with trio.move_on_after(_END_SECONDS):
                await self.process.wait()
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()
        for pair in self.pairs.values():
            pair.end()
        self.pairs.clear()
        self._counters.release()
        self._memory.close()

    # --- pairs

    def take(self, a: trio.SocketStream, b: trio.SocketStream, moved: Moved, pace: PairPace) -> _Pair | None:
        """Pass the sockets of a pair to the worker. Returns None, and changes nothing, if that is not possible."""
        if self._unsent or (not self._free and len(self.pairs) >= SLOTS):
            return None
        slot = self._free.popleft() if self._free else next(self._next_slot)
        counts = _Counts(self._counters, slot)
        # All pairs of a holder have the same `SharedTurns` object, which exists while the holder has pairs.
        holder = id(pace.turns)
        # The connections are then also reset if the worker is killed before it has received the sockets.
        reset_on_close(a, True)
        reset_on_close(b, True)
        try:
            send(self._control, Kind.MOVE, slot, holder, (a.socket.fileno(), b.socket.fileno()))
        except OSError:
            self._free.append(slot)
            reset_on_close(a, False)
            reset_on_close(b, False)
            return None
        for stream in (a, b):
            stream.socket.close()  # the worker has a descriptor of its own
        pair = self.pairs[slot] = _Pair(slot, pace, counts)
        moved.worker = counts
        return pair

    def abort(self, pair: _Pair) -> None:
        """Have the connections of a pair reset."""
        self._say(Kind.ABORT, pair)

    def ask_back(self, pair: _Pair) -> None:
        """Ask for the sockets of a pair."""
        if not pair.is_returning:
            pair.is_returning = True
            self._say(Kind.RETURN, pair)

    def _say(self, kind: Kind, pair: _Pair) -> None:
        if self.pairs.get(pair.slot) is not pair:
            return
        self._unsent.append((kind, pair.slot))
        self._send_unsent()

    def _send_unsent(self) -> None:
        try:
            while self._unsent:
                send(self._control, *self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            self._has_unsent.set()
        except OSError:
            self._unsent.clear()  # it has ended, which `receive` notices

    async def send_unsent(self) -> None:
        """Send messages when there is room for them. Runs until cancelled."""
        while True:
            await self._has_unsent.wait()
            self._has_unsent = trio.Event()
            await trio.lowlevel.wait_writable(self._control)
            self._send_unsent()

    async def receive(self) -> None:
        """Handle what the worker says, until it ends."""
        while True:
            await trio.lowlevel.wait_readable(self._control)
            try:
                message = receive(self._control)
            except BlockingIOError:
                continue
            except (OSError, ValueError):
                return
            if message is None or not self._handle(message):
                return

    def _handle(self, message: Message) -> bool:
        """Returns False if the worker does not follow the protocol."""
        if message.kind is Kind.COPIES:
            self._events.publish(
                SpliceUnavailable(detail=os.strerror(message.value), retry_seconds=SPLICE_RETRY_SECONDS)
            )
            return True
        pair = self.pairs.pop(message.slot, None)
        if pair is None or message.kind not in (Kind.ENDED, Kind.RETURNED):
            for descriptor in message.descriptors:
                os.close(descriptor)
            return False
        if message.kind is Kind.RETURNED:
            a, b = message.descriptors
            pair.returned = _stream(a), _stream(b)
        else:
            pair.outcome = _OUTCOMES.get(message.value, PumpOutcome.WORKER_ENDED)
        pair.end()
        self._free.append(message.slot)
        return True


class Workers:
    """The workers of a relay. `open_workers` makes one."""

    def __init__(self, events: EventStream) -> None:
        """Begin without a worker."""
        self._events = events
        self._running: list[_Worker] = []

    @property
    def running(self) -> int:
        """How many workers are running."""
        return len(self._running)

    @property
    def pairs(self) -> int:
        """How many pairs they have."""
        return sum(len(one.pairs) for one in self._running)

    async def move(
        self,
        a: trio.abc.HalfCloseableStream,
        b: trio.abc.HalfCloseableStream,
        *,
        moved: Moved,
        pipes: PipePool,
        pace: PairPace,
    ) -> PumpResult:
        """Do what `pump` does, in a worker if there is one, both streams are sockets, and the pair has no rate limit.

        If the pair gets a rate limit later, it is moved back to this process, because the limit has to be shared with
        all other pairs; see `take_back`.
        """
        worker = min(self._running, key=lambda one: len(one.pairs), default=None)
        pair = None
        if worker is not None and pace.rate is None and can_splice(a, b):
            assert isinstance(a, trio.SocketStream)
            assert isinstance(b, trio.SocketStream)
            pair = worker.take(a, b, moved, pace)
        if worker is None or pair is None:
            return await pump(a, b, moved=moved, pipes=pipes, pace=pace)
        try:
            await pair.over.wait()
        except BaseException:
            await _abort(worker, pair)
            raise
        finally:
            moved.fold_in()
        if pair.returned is None:
            return PumpResult(moved.a_to_b, moved.b_to_a, pair.outcome)
        return await pump(*pair.returned, moved=moved, pipes=pipes, pace=pace)

    def take_back(self) -> None:
        """Move in this process, from now on, all pairs whose hybrid connection has a rate limit."""
        for worker in self._running:
            for pair in list(worker.pairs.values()):
                if pair.pace.rate is not None:
                    worker.ask_back(pair)

    async def run(self, count: int, task_status: trio.TaskStatus[None]) -> None:
        """Keep this number of workers running, until cancelled. Their pairs then end.

        `task_status.started` is called when each of them was started, or could not be started.
        """
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(self._keep_one, await self._start(_REPLACE_SECONDS))
            task_status.started()

    async def _keep_one(self, worker: _Worker | None) -> None:
        """Serve a worker, and replace it when it has ended. None: it could not be started."""
        pause = _REPLACE_SECONDS
        while True:
            began = trio.current_time()
            if worker is not None:
                pairs = await self._serve(worker)
                if trio.current_time() - began > _PROVEN_SECONDS:
                    pause = _REPLACE_SECONDS
                self._events.publish(
                    WorkerEnded(pid=worker.process.pid, status=worker.status, pairs=pairs, retry_seconds=pause)
                )
            await trio.sleep(pause)
            pause = min(2 * pause, _MAX_REPLACE_SECONDS)
            worker = await self._start(pause)

    async def _start(self, retry_seconds: float) -> _Worker | None:
        try:
            return await _Worker.start(self._events)
        except OSError as exc:
            self._events.publish(WorkerNotStarted(detail=exc.strerror or str(exc), retry_seconds=retry_seconds))
            return None

    async def _serve(self, worker: _Worker) -> int:
        """Exchange messages with a worker until it ends. Returns how many pairs it had then."""
        self._running.append(worker)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.send_unsent)
                await worker.receive()
                nursery.cancel_scope.cancel()
        finally:
            self._running.remove(worker)
            pairs = len(worker.pairs)
            await worker.aclose()
        return pairs


@asynccontextmanager
async def open_workers(count: int, events: EventStream) -> AsyncIterator[Workers]:
    """Run this number of workers during the block, or as many as the system allows. They end after the block, even if
    it is cancelled, so that `Workers.move` can end its pairs."""
    workers = Workers(events)
    if not count:
        yield workers
        return
    scope = trio.CancelScope(shield=True)

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        with scope:
            await workers.run(count, task_status)

    async with FlatNursery() as nursery:
        await nursery.start(run)
        try:
            yield workers
        finally:
            scope.cancel()


async def _abort(worker: _Worker, pair: _Pair) -> None:
    """Reset the connections of a pair, and wait until that has happened. Not cancelled with its caller."""
    with trio.CancelScope(shield=True):
        worker.abort(pair)
        with trio.move_on_after(_END_SECONDS):
            await pair.over.wait()
        if not pair.over.is_set():
            worker.process.kill()  # it is stuck
            await pair.over.wait()
        if pair.returned is not None:
            await abort(*pair.returned)


def _stream(descriptor: int) -> trio.SocketStream:
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=descriptor)))
    tune_stream(stream)
    reset_on_close(stream, False)
    return stream


def _shared_memory() -> int:
    """Return a descriptor of memory that can be shared. Raises OSError."""
    assert sys.platform == "linux"
    descriptor = os.memfd_create("hybridrelay worker")
    try:
        os.ftruncate(descriptor, COUNTS_BYTES)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
