"""One worker process, as the main process sees it; see `workers`."""

# This module is long because the pairs of a worker, the messages to it, and the end of its process share the state of
# one class.

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import attrs
import trio

from ..._environment import without_secrets
from ..._threads import thread_errors
from ...events.relay_resources import SpliceUnavailable
from ...events.stream import EventStream
from ...streams.sockets import reset_on_close, tune_stream
from ..worker.messages import SLOTS, Ended, Kind, Message, receive, send
from ..worker.splicing import SPLICE_RETRY_SECONDS
from .handover import PairHandover
from .pace import PairPace
from .pump import Moved, PumpOutcome
from .worker_memory import PairCounts, WorkerMemory, is_sealed

__all__ = ["END_SECONDS", "Process", "WorkerPair", "WorkerProcess"]

#: A worker that is to end a pair, and says nothing for this time, is killed; so is one that takes longer to end
#: itself (seconds).
END_SECONDS = 2.0
#: How long a worker may take to start (seconds). Long, for machines that are very busy.
_START_SECONDS = 60.0
#: How often a worker has to show that it is not stuck, and for how long it may say nothing then (seconds).
_PING_SECONDS = 2.0
_STUCK_SECONDS = 10.0
#: How long a worker may take to return the sockets of a pair, which it can do only if both receivers read (seconds).
_RETURN_SECONDS = 5.0
#: How many of its messages are handled in one go, at most.
_MAX_MESSAGES = 256
#: The largest error number of Linux.
_MAX_ERRNO = 4095
#: What a worker's process runs. It finds this package where the main process has found it.
_PROGRAM = """
import sys
sys.path[:] = sys.argv.pop().splitlines()
from hybridrelay.relay.worker.__main__ import main
main()
"""
_OUTCOMES: Mapping[int, PumpOutcome] = {
    Ended.FINISHED: PumpOutcome.FINISHED,
    Ended.A_BROKE: PumpOutcome.A_BROKE,
    Ended.B_BROKE: PumpOutcome.B_BROKE,
    Ended.ABORTED: PumpOutcome.WORKER_ENDED,
}


class Process(Protocol):
    """The process of a worker."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    def kill(self) -> None: ...
    async def wait(self) -> int: ...


@attrs.define(eq=False)
class WorkerPair:
    """A pair that a worker moves."""

    slot: int
    pace: PairPace
    counts: PairCounts
    #: What the worker carries to the next main process with it; None: nothing.
    handover: PairHandover | None = None
    #: Set when the worker no longer has the pair.
    over: trio.Event = attrs.field(factory=trio.Event)
    outcome: PumpOutcome = PumpOutcome.WORKER_ENDED
    #: The sockets that the worker has returned.
    returned: tuple[trio.SocketStream, trio.SocketStream] | None = None
    #: Whether the worker had passed on the end of file of the first channel, and that of the second one, when it
    #: returned the sockets.
    ended: tuple[bool, bool] = (False, False)
    #: Cancelled if the sockets were asked for and did not come in time (`WorkerProcess.ask_back`).
    waiting: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    is_returning: bool = False

    def end(self) -> None:
        """Note that the worker no longer has the pair, or that this process no longer has the worker."""
        self.counts.keep()
        if self.handover is not None:
            self.handover.forget_worker()
        self.over.set()


class WorkerProcess:
    """One worker process while it runs.

    Args:
        process: the process, which this process has started, or taken over.
        control: the socket to it.
        memory: the memory that is shared with it.
        events: the stream to which events are published.
    """

    def __init__(self, process: Process, control: socket.socket, memory: WorkerMemory, events: EventStream) -> None:
        self.process = process
        self._events = events
        self.pairs: dict[int, WorkerPair] = {}
        self._control = control
        self.memory = memory
        self._free: deque[int] = deque()
        self._next_slot = itertools.count()
        #: Messages that did not fit into the socket.
        self._unsent: deque[tuple[Kind, int, int]] = deque()
        self._has_unsent = trio.Event()
        #: Set when the worker takes pairs.
        self.ready = trio.Event()
        self._answered = trio.Event()
        #: How many messages of the worker were handled.
        self._heard = 0
        #: Set when it has no pairs any more.
        self.has_no_pairs = trio.Event()
        #: Whether it is to keep its pairs for the next main process, and whether it does.
        self.is_released = False
        self.keeps_pairs = False
        #: How many pairs it keeps.
        self.kept = 0

    @classmethod
    async def start(cls, events: EventStream, *, directory: Path | None = None, keep: float = 0.0) -> WorkerProcess:
        """Start a process. Raises OSError.

        Args:
            events: the stream to which events are published.
            directory: where the worker looks for the next main process.
            keep: how long it keeps its pairs without a main process (seconds).
        """
        if not sys.executable:
            raise OSError("this program does not know where its Python interpreter is")
        with contextlib.ExitStack() as always, contextlib.ExitStack() as after_an_error:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            after_an_error.enter_context(ours)
            always.enter_context(theirs)
            descriptor = WorkerMemory.allocate()
            always.callback(os.close, descriptor)
            memory = after_an_error.enter_context(contextlib.closing(WorkerMemory(descriptor)))
            if not is_sealed(descriptor):
                keep = 0.0  # the next main process would not use the memory
            inherited = (theirs.fileno(), descriptor)
            command = [sys.executable, "-c", _PROGRAM, *map(str, (*inherited, keep)), _module_path()]
            # A process group of its own, so that Ctrl-C does not reach it while it starts.
            with thread_errors():
                process = await trio.lowlevel.open_process(
                    command, stdin=subprocess.DEVNULL, pass_fds=inherited, process_group=0, cwd=directory,
                    env=without_secrets(),
                )  # fmt: skip
            after_an_error.pop_all()
        ours.setblocking(False)
        return cls(process, ours, memory, events)

    @property
    def status(self) -> str:
        """How the process has ended."""
        if not isinstance(self.process, trio.Process):
            return "unknown"  # only the process that has started it knows
        code = self.process.returncode or 0
        if code >= 0:
            return f"exit code {code}"
        try:
            return signal.Signals(-code).name
        except ValueError:  # most real-time signals have no name
            return f"signal {-code}"

    async def aclose(self) -> None:
        """End the process, which resets the connections that it has. Its pairs are over then.

        If it keeps its pairs, it does not end, and they are over for this process only. This cannot be cancelled.
        """
        with trio.CancelScope(shield=True):
            if not self.keeps_pairs:
                self._end()
            self._control.close()
            if not self.keeps_pairs:
                with trio.move_on_after(END_SECONDS):
                    await self.process.wait()
                if self.process.returncode is None:
                    self.process.kill()
                    await self.process.wait()
        for pair in self.pairs.values():
            if self.keeps_pairs:
                pair.counts.keep()
                self.memory.settle(pair.slot, pair.counts)
                pair.outcome = PumpOutcome.KEPT
            pair.end()
        self.pairs.clear()
        self.memory.close()

    def _end(self) -> None:
        """Request that the process ends."""
        try:
            send(self._control, Kind.END, 0)
        except BlockingIOError:
            self.process.kill()  # it is stuck
        except OSError:
            pass  # it has ended, or is about to

    def release(self) -> None:
        """Request that the worker keeps its pairs for the next main process. `receive` then returns soon.

        Does nothing if the worker has not started yet, or does not read its messages. It is then ended as usual.
        """
        if self._unsent or not self.ready.is_set():
            return
        self.is_released = True
        with contextlib.suppress(OSError):  # it has ended, which `receive` notices
            self._control.shutdown(socket.SHUT_WR)

    # --- pairs

    def take(
        self,
        a: trio.SocketStream,
        b: trio.SocketStream,
        moved: Moved,
        pace: PairPace,
        handover: PairHandover | None = None,
    ) -> WorkerPair | None:
        """Pass the sockets of a pair to the worker. Returns None, and changes nothing, if that is not possible.

        Args:
            a, b: the streams.
            moved: counts the bytes.
            pace: the limits of the pair.
            handover: what the next main process has to know about it. None: it will not be taken over.
        """
        if self._unsent or self.is_released or (not self._free and len(self.pairs) >= SLOTS):
            return None
        slot = self._free.popleft() if self._free else next(self._next_slot)
        counts = self.memory.begin(slot) if handover is None else handover.write(self.memory, slot, moved)
        # All pairs of a holder have the same `SharedTurns` object, which exists while the holder has pairs.
        holder = id(pace.turns)
        # The connections are then also reset if the worker is killed before it has received the sockets.
        reset_on_close(a, on=True)
        reset_on_close(b, on=True)
        try:
            send(self._control, Kind.MOVE, slot, holder, (a.socket.fileno(), b.socket.fileno()))
        except OSError:
            self._free.append(slot)
            if handover is not None:
                handover.forget_worker()
            reset_on_close(a, on=False)
            reset_on_close(b, on=False)
            return None
        for stream in (a, b):
            stream.socket.close()  # the worker has a descriptor of its own
        pair = self.pairs[slot] = WorkerPair(slot, pace, counts, handover)
        moved.worker = counts
        return pair

    def add_existing(self, slot: int, pace: PairPace, handover: PairHandover) -> WorkerPair:
        """Note that the worker, which was taken over, already has a pair."""
        handover.note_written(self.memory, slot)
        pair = self.pairs[slot] = WorkerPair(slot, pace, self.memory.counts(slot), handover)
        return pair

    def taken_over(self, keep: float) -> None:
        """Tell the worker that it was taken over. `send_unsent` has to run.

        Args:
            keep: how long it keeps its pairs without this main process (seconds).
        """
        self.ready.set()
        if not self.pairs:
            self.has_no_pairs.set()
        self._unsent.append((Kind.TAKEN, 0, round(keep * 1000)))
        self._send_unsent()

    def abort(self, pair: WorkerPair) -> None:
        """Have the connections of a pair reset."""
        self._say(Kind.ABORT, pair)

    def ask_back(self, pair: WorkerPair, seconds: float = _RETURN_SECONDS) -> None:
        """Ask for the sockets of a pair. If they do not come in this time, `WorkerPair.waiting` is cancelled."""
        pair.waiting.deadline = min(pair.waiting.deadline, trio.current_time() + seconds)
        if not pair.is_returning:
            pair.is_returning = True
            self._say(Kind.RETURN, pair)

    def _say(self, kind: Kind, pair: WorkerPair) -> None:
        if self.pairs.get(pair.slot) is pair:
            self._unsent.append((kind, pair.slot, 0))
            self._send_unsent()

    async def watch(self) -> None:
        """Kill the process if it does not start, or is stuck. Runs until cancelled, or until it was killed."""
        answered, seconds = self.ready, _START_SECONDS
        while await self.answers(answered, seconds):
            await trio.sleep(_PING_SECONDS)
            answered, seconds = trio.Event(), _STUCK_SECONDS
            self._answered = answered
            self._unsent.append((Kind.PING, 0, 0))
            self._send_unsent()
        self.process.kill()

    async def answers(self, answer: trio.Event, seconds: float) -> bool:
        """Wait for an answer of the worker. Returns False if it has said nothing at all for this time.

        It is not stuck if it answers other messages first, such as when very many pairs end, or if this process has
        not read yet what it has said. The time has two halves, and a worker that is stuck says nothing in both. If
        both processes were suspended, the first half has passed when they continue, and the worker can answer in the
        second one.
        """
        is_silent = False
        while not answer.is_set():
            heard = self._heard
            with trio.move_on_after(seconds / 2):
                await answer.wait()
            was_silent, is_silent = is_silent, self._heard == heard and not self._has_unread()
            if was_silent and is_silent:
                break
        return answer.is_set()

    def _has_unread(self) -> bool:
        """Return whether there is something to receive: messages, or the end of the worker."""
        if self._control.fileno() < 0:
            return True  # it ends
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        return bool(poll.poll(0))

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
            for _ in range(_MAX_MESSAGES):
                try:
                    message = receive(self._control)
                    if message is None or not self._handle(message):
                        return
                except BlockingIOError:
                    break
                except (OSError, ValueError, MemoryError):
                    return
                self._heard += 1

    def _handle(self, message: Message) -> bool:
        """Handle a message. Returns False if it was the last one, or if the worker does not follow the protocol.

        Raises OSError, ValueError and MemoryError if a message has no sensible content, or cannot be handled. The
        worker is then ended, too.
        """
        match message.kind:
            case Kind.READY:
                self.ready.set()
            case Kind.PONG:
                self._answered.set()
            case Kind.KEPT if self.is_released:
                self.keeps_pairs = True
                return False
            case Kind.COPIES:
                detail = os.strerror(min(message.value, _MAX_ERRNO))
                self._events.publish(SpliceUnavailable(detail=detail, retry_seconds=SPLICE_RETRY_SECONDS))
            case Kind.ENDED | Kind.RETURNED if message.slot in self.pairs:
                self._pair_ended(self.pairs.pop(message.slot), message)
            case _:
                for descriptor in message.descriptors:
                    os.close(descriptor)
                return False
        return True

    def _pair_ended(self, pair: WorkerPair, message: Message) -> None:
        try:
            if message.kind is Kind.ENDED:
                pair.outcome = _OUTCOMES.get(message.value, PumpOutcome.WORKER_ENDED)
            elif message.descriptors:  # otherwise this process has none left, and the connections were reset
                pair.returned = _streams(message.descriptors)
                pair.ended = bool(message.value & 1), bool(message.value & 2)
        finally:  # whatever the worker has sent, it no longer has the pair
            pair.end()
            self._free.append(pair.slot)
            if not self.pairs:
                self.has_no_pairs.set()


def _streams(descriptors: Sequence[int]) -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return streams for two sockets that a worker has returned.

    Raises:
        OSError, ValueError, MemoryError: they are not connected TCP sockets, or memory has run out. Both are closed.
    """
    with contextlib.ExitStack() as after_an_error:
        for descriptor in descriptors:
            after_an_error.callback(os.close, descriptor)
        sockets = []
        for descriptor in descriptors:
            sock = socket.socket(fileno=descriptor)
            after_an_error.callback(sock.detach)  # otherwise the socket, too, would close the descriptor
            if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type is not socket.SOCK_STREAM:
                raise ValueError(f"a socket of the family {sock.family!s} and the type {sock.type!s}")
            sock.setblocking(False)
            sockets.append(sock)
        a, b = (trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in sockets)
        after_an_error.pop_all()
    for stream in (a, b):
        tune_stream(stream)
        reset_on_close(stream, on=False)
    return a, b


def _module_path() -> str:
    return "\n".join(map(os.path.abspath, sys.path))
