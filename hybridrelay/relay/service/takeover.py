"""Taking over the workers of a previous main process, with their pairs.

The previous main process has stopped, or was killed. Its workers go on (`relay.worker.orphaned`), and connect to a
socket in the state directory. Only the relay that has locked the state directory listens there. What a worker says is
checked: one that does not follow the protocol is killed, so that its sessions resume.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import attrs
import trio

from ..._value import Value
from ...events.relay_resources import WorkerNotTakenOver, WorkersNotKept, WorkerTakenOver
from ...events.stream import EventStream
from ..core.pair_note import PairNote
from ..core.pairs import Traffic
from ..worker.messages import SLOTS, SOCKET_NAME, VERSION, Kind, Message, receive, send
from .adopted_process import AdoptedProcess, peer_of
from .broker import BrokerService
from .patience import in_time
from .worker_memory import WorkerMemory, is_sealed
from .worker_process import WorkerProcess
from .workers import Workers

__all__ = ["Takeover", "listen_for_workers"]

#: How many workers may wait to be accepted, and how many may list their pairs at the same time.
_BACKLOG = 64
_AT_THE_SAME_TIME = 16
#: How long a worker may take to list its pairs (seconds). One that takes longer is stuck.
_LIST_SECONDS = 10.0
#: How many pairs are taken over before other tasks may run.
_AT_A_TIME = 50
#: How long to wait if this process has no descriptors left (seconds).
_PAUSE_SECONDS = 0.1


@contextmanager
def listen_for_workers(directory: Path, events: EventStream) -> Iterator[socket.socket | None]:
    """Listen during the block for workers of a previous main process. This process has to have locked the directory.

    Yields None if that is not possible, after an event was published.
    """
    try:
        listener = _listen(directory)
    except OSError as exc:
        events.publish(WorkersNotKept(detail=f"{directory / SOCKET_NAME}: {exc.strerror or exc}"))
        yield None
        return
    try:
        yield listener
    finally:
        listener.close()
        with contextlib.suppress(OSError):
            os.unlink(directory / SOCKET_NAME)


def _listen(directory: Path) -> socket.socket:
    path = directory / SOCKET_NAME
    with contextlib.suppress(FileNotFoundError):  # remove the socket of a main process that was killed
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    # The path of a socket has at most 107 bytes. That of the directory may have more.
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.setblocking(False)
        short = len(os.fsencode(path)) < 100
        listener.bind(os.fsencode(path if short else f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"))
        path.chmod(0o600)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(descriptor)
    return listener


@attrs.frozen
class _Pair(Value):
    """A pair that a worker has listed."""

    slot: int
    note: PairNote
    #: How many of its bytes the previous main process has counted.
    settled: Traffic
    is_established: bool


@attrs.define(eq=False)
class _Attempt:
    """An attempt to take over the process at the other end of a connection."""

    control: socket.socket
    process: AdoptedProcess
    #: The memory that it has sent.
    memory: WorkerMemory | None = None
    #: Whether it has said something that only a worker says.
    is_worker: bool = False
    #: Whether a `WorkerProcess` owns the process and its memory now.
    is_taken: bool = False

    def close(self) -> None:
        """Close everything but `control`, unless a `WorkerProcess` owns it now."""
        if not self.is_taken:
            self.process.close()
            if self.memory is not None:
                self.memory.close()

    def kill(self) -> None:
        """Kill the process. This resets its connections."""
        poll = select.poll()
        poll.register(self.control, select.POLLRDHUP)
        # If its end of the socket is closed, the process may have ended, and its id may belong to another one.
        if not poll.poll(0):
            self.process.kill()


class Takeover:
    """Takes over workers.

    Args:
        listener: see `listen_for_workers`. Not closed.
        broker: gets the pairs.
        workers: gets the workers.
        events: the stream to which events are published.
    """

    def __init__(self, listener: socket.socket, broker: BrokerService, workers: Workers, events: EventStream) -> None:
        self._listener = listener
        self._broker = broker
        self._workers = workers
        self._events = events
        self._limiter = trio.CapacityLimiter(_AT_THE_SAME_TIME)
        #: Pairs are checked and taken over by one task at a time.
        self._taking = trio.Lock()

    async def run(self, nursery: trio.Nursery, scope: trio.CancelScope) -> None:
        """Take over workers until `scope` is cancelled. Pairs are served by tasks in `nursery`."""
        with scope:
            await self._run(nursery)

    async def _run(self, nursery: trio.Nursery) -> None:
        async with trio.open_nursery() as attaching:
            while True:
                async with self._limiter:
                    await trio.lowlevel.wait_readable(self._listener)
                try:
                    control, _ = self._listener.accept()
                except BlockingIOError:
                    continue
                except OSError:  # this process has no descriptors left at the moment
                    await trio.sleep(_PAUSE_SECONDS)
                    continue
                control.setblocking(False)
                attaching.start_soon(self._attach, control, nursery)

    async def _attach(self, control: socket.socket, nursery: trio.Nursery) -> None:
        """Take over the worker at the other end of `control`. If the worker does something wrong, it is killed, and
        an event is published."""
        with control:
            async with self._limiter:
                pid, user = peer_of(control)
                if user != os.geteuid():
                    return  # a process of root, which is not a worker of this relay
                try:
                    process = AdoptedProcess(pid)
                except OSError as exc:
                    self._cannot_adopt(control, pid, exc)
                    return
                attempt = _Attempt(control, process)
                try:
                    await self._try_to_attach(attempt, nursery)
                except ConnectionError:
                    pass  # it has ended, or is another program
                except (OSError, ValueError, MemoryError) as exc:
                    if attempt.is_worker:
                        self._events.publish(WorkerNotTakenOver(pid=pid, detail=str(exc) or type(exc).__name__))
                        attempt.kill()
                finally:
                    attempt.close()

    def _cannot_adopt(self, control: socket.socket, pid: int, error: OSError) -> None:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESRCH):
            return  # it tries again, if it still exists
        self._events.publish(WorkerNotTakenOver(pid=pid, detail=error.strerror or str(error)))
        with contextlib.suppress(OSError):
            send(control, Kind.END, 0)

    async def _try_to_attach(self, attempt: _Attempt, nursery: trio.Nursery) -> None:
        # The wait for `_taking` has no limit: it depends on the other workers, and not on this one.
        slots = await in_time(partial(self._introduce, attempt), _LIST_SECONDS)
        if slots is None:
            raise TimeoutError("it does not answer")
        async with self._taking:
            assert attempt.memory is not None
            pairs = await self._check(attempt.memory, slots)
            worker = WorkerProcess(attempt.process, attempt.control.dup(), attempt.memory, self._events)
            attempt.is_taken = True
            await self._take_over(worker, pairs, nursery)

    async def _introduce(self, attempt: _Attempt) -> list[int]:
        """Receive the memory, and the slots of the pairs. Raises what `_receive` raises."""
        attempt.memory = await self._greet(attempt)
        return await self._list(attempt.control)

    async def _greet(self, attempt: _Attempt) -> WorkerMemory:
        """Exchange `HELLO`. Raises what `_receive` raises."""
        message = await _receive(attempt.control)
        try:
            if message.kind is not Kind.HELLO:
                raise ValueError("it does not begin with HELLO")
            attempt.is_worker = True
            send(attempt.control, Kind.HELLO, 0, VERSION)
            if message.value != VERSION:  # it ends by itself, too
                raise ValueError(f"it has version {message.value} of the protocol, and this relay {VERSION}")
            if not message.descriptors:
                raise ValueError("its memory is missing")
            if not is_sealed(message.descriptors[0]):
                raise ValueError("its memory is not sealed against shrinking")
            return WorkerMemory(message.descriptors[0])
        finally:
            for descriptor in message.descriptors:
                os.close(descriptor)

    async def _list(self, control: socket.socket) -> list[int]:
        """Receive the list of slots. Raises what `_receive` raises."""
        slots: dict[int, None] = {}
        while (message := await _receive(control)).kind is Kind.HAS:
            if message.slot in slots:
                raise ValueError(f"it lists the slot {message.slot} twice")
            slots[message.slot] = None
            if len(slots) % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
        if message.kind is not Kind.READY:
            for descriptor in message.descriptors:
                os.close(descriptor)
            raise ValueError(f"{message.kind.name} in the list of pairs")
        return list(slots)

    async def _check(self, memory: WorkerMemory, slots: list[int]) -> list[_Pair]:
        """Read the notes about the pairs. Raises ValueError."""
        assert len(slots) <= SLOTS
        pairs = []
        known: set[str] = set()
        for number, slot in enumerate(slots, 1):
            if number % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
            data, is_established = memory.note(slot)
            note = PairNote.decode(data)
            if note.id in known or self._broker.knows(note.id):
                raise ValueError(f"the pair {note.id} is already known to this relay, or is listed twice")
            known.add(note.id)
            settled, counts = memory.settled(slot), memory.counts(slot)
            if settled[0] > counts.a_to_b or settled[1] > counts.b_to_a:
                raise ValueError("its counts are impossible")
            # The connector's channel is the first one, so the first count is that of the bytes to the client.
            pairs.append(_Pair(slot, note, Traffic(*settled), is_established))
        return pairs

    async def _take_over(self, worker: WorkerProcess, pairs: list[_Pair], nursery: trio.Nursery) -> None:
        """Take over a worker with its pairs. If this is cancelled, or fails, the worker is ended."""
        taken = 0
        try:
            for pair in pairs:
                nursery.start_soon(
                    self._broker.take_over(
                        worker, pair.slot, pair.note, pair.settled, is_established=pair.is_established
                    )
                )
                taken += 1
                if taken % _AT_A_TIME == 0:
                    await trio.lowlevel.checkpoint()
        finally:
            self._workers.take_over(worker)
        self._events.publish(WorkerTakenOver(pid=worker.process.pid, pairs=taken))


async def _receive(control: socket.socket) -> Message:
    """Receive a message.

    Raises:
        OSError, ValueError: the worker has ended, or does not follow the protocol.
    """
    while True:
        try:
            message = receive(control)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(control)
            continue
        if message is None:
            raise ConnectionResetError("it has ended")
        return message
