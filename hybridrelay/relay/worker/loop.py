"""The event loop of a worker.

Every socket is registered once, edge-triggered. Holders of pairs with something to do are served in rotation: each
gets one turn, however many pairs it has. After each round of a limited number of turns, the kernel is asked again.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import resource
import select
import socket
from collections import deque

from .messages import COUNTS_BYTES, SETTLED, Ended, Kind, Message, receive, send
from .orphaned import OrphanedWorker
from .pair import BUFFER_BYTES, Broken, Channel, Direction, Pair, Pipes

__all__ = ["TURN_BYTES", "TURN_STEPS", "Worker"]

#: A holder's turn is over after this many steps of `Direction.move`, or after this many bytes: about half a
#: millisecond.
TURN_STEPS = 64
TURN_BYTES = 1024 * 1024
#: One in this many steps is for a direction that was already served, even if others have just become ready.
_SERVED_EVERY = 4
#: How many events and messages are taken in one round, and how many holders get a turn, at most.
_MAX_EVENTS = 256
_MAX_MESSAGES = 64
_MAX_TURNS = 64
#: How long a worker whose main process no longer sends may take for its last messages to it (seconds).
_LAST_MESSAGES_SECONDS = 1.0
#: Read once, because to look them up in `select` for each event would be slow. Only Linux has them.
_IN, _OUT, _ERR = (getattr(select, name, 0) for name in ("EPOLLIN", "EPOLLOUT", "EPOLLERR"))
#: Conditions that epoll reports only once, and before which a read stops, so that it may return less than there is
#: room for: the end of the stream, an error, and urgent data.
_SHORTENS_READS = (
    select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLPRI if hasattr(select, "EPOLLRDHUP") else 0
)


class _Holder:
    """A holder of pairs, and its directions that have something to do."""

    __slots__ = ("_steps", "fresh", "is_queued", "pairs", "served")

    def __init__(self) -> None:
        #: Directions that have just become ready.
        self.fresh: deque[Direction] = deque()
        #: Directions that were already served, and have more to do.
        self.served: deque[Direction] = deque()
        self.is_queued = False
        #: How many pairs it has.
        self.pairs = 0
        self._steps = 0

    def take(self) -> Direction:
        """Take the next direction, usually one that has just become ready, so that a small message does not wait for
        the bulk data of all other pairs."""
        self._steps += 1
        is_turn_of_served = not self._steps % _SERVED_EVERY
        if self.fresh and not (self.served and is_turn_of_served):
            return self.fresh.popleft()
        return self.served.popleft()


class Worker:
    """A worker.

    Args:
        control: the socket to the main process, see `messages`.
        memory: a descriptor of the shared memory.
        keep: how long to keep the pairs without a main process (seconds).
    """

    def __init__(self, control: socket.socket, memory: int, *, keep: float = 0.0) -> None:
        control.setblocking(False)
        self._control = control
        self._memory = memory
        self._keep = keep
        self._is_leaving = False
        #: Set while there is no main process, otherwise None.
        self._orphaned: OrphanedWorker | None = None
        self._map = mmap.mmap(memory, COUNTS_BYTES)
        self._counts = memoryview(self._map).cast("Q")
        self._epoll = select.epoll()
        self._epoll.register(control, select.EPOLLIN)
        self._pipes = Pipes(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8)
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        #: The pairs by slot, the holders by the number that the main process has given them, and that number by slot.
        self._pairs: dict[int, Pair] = {}
        self._holders: dict[int, _Holder] = {}
        self._holder_of: dict[int, int] = {}
        #: The channels by descriptor, with the holder of the pair.
        self._by_descriptor: dict[int, tuple[Channel, _Holder]] = {}
        #: Holders with something to do.
        self._ready: deque[_Holder] = deque()
        #: Messages that did not fit into the socket yet.
        self._unsent: deque[tuple[Kind, int, int, tuple[socket.socket, ...]]] = deque()
        self._is_over = False
        self._say(Kind.READY, 0, 0)

    def run(self) -> None:
        """Serve until the main process ends this worker, or has ended itself and nobody takes the pairs over. Then
        reset all connections that are left."""
        try:
            while not self._is_over:
                self.run_round(-1)
        finally:
            self.close()

    def end_with_main_process(self) -> None:
        """End when the main process ends, without keeping pairs. May be called by a signal handler."""
        self._is_leaving = True

    def run_round(self, timeout: float) -> None:
        """Run one round. If there is nothing to do, wait for at most `timeout` seconds (-1: without a limit)."""
        if self._orphaned is not None:
            due = self._orphaned.timeout
            timeout = due if timeout < 0 else min(timeout, due)
        for descriptor, events in self._epoll.poll(0 if self._ready else timeout, _MAX_EVENTS):
            if (known := self._by_descriptor.get(descriptor)) is not None:
                self._note(*known, events)
            elif descriptor == self._control.fileno():  # otherwise its pair has ended in this round
                self._talk(events)
        for _ in range(min(len(self._ready), _MAX_TURNS)):
            self._serve(self._ready.popleft())
        if self._orphaned is not None:
            self._look_for_main_process(self._orphaned)
        if self._pipes.error is not None:
            self._say(Kind.COPIES, 0, self._pipes.error)
            self._pipes.error = None

    def close(self) -> None:
        """Reset all connections, and close everything. Idempotent."""
        for pair in self._pairs.values():
            pair.close(gracefully=False)
        self._pairs.clear()
        self._pipes.close()
        if self._orphaned is not None:
            self._orphaned.close()
        self._epoll.close()
        self._control.close()
        self._counts.release()
        self._map.close()

    # --- the sockets

    def _note(self, channel: Channel, holder: _Holder, events: int) -> None:
        if events & _SHORTENS_READS:
            pair = channel.incoming.pair
            if events & _ERR and (end := pair.broken()) is not None:
                self._end(pair, end)
                return
            channel.reads_may_be_short = channel.is_readable = True
        if events & _IN:
            channel.is_readable = True
        if events & _OUT:
            channel.is_writable = True
        for direction in (channel.incoming, channel.outgoing):
            if not direction.is_queued and direction.can_move():
                direction.is_queued = True
                holder.fresh.append(direction)
                if not holder.is_queued:
                    holder.is_queued = True
                    self._ready.append(holder)

    def _serve(self, holder: _Holder) -> None:
        """Give a holder one turn."""
        holder.is_queued = False
        fresh, served = holder.fresh, holder.served
        steps = size = 0
        while (fresh or served) and steps < TURN_STEPS and size < TURN_BYTES:
            direction = holder.take()
            direction.is_queued = False
            pair = direction.pair
            if pair.is_over:
                continue  # it has ended while the direction waited
            steps += 1
            try:
                size += direction.move(self._buffer)
            except Broken as exc:
                self._end(pair, exc.end)
                continue
            if direction.has_ended and pair.is_finished:
                self._end(pair, Ended.FINISHED)
            elif pair.is_returning and pair.can_return:
                self._return(pair)
            elif direction.can_move():
                direction.is_queued = True
                served.append(direction)
        if fresh or served:
            holder.is_queued = True
            self._ready.append(holder)

    # --- the main process

    def _talk(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._send_unsent()
        has_failed = False
        for _ in range(_MAX_MESSAGES):
            try:
                message = receive(self._control)
            except BlockingIOError:
                return
            except ValueError:
                self._is_over = True  # the other side does not follow the protocol
                return
            except OSError:
                if not has_failed:  # the main process has ended, but there may be messages that it has sent before
                    has_failed = True
                    continue
                message = None
            if message is None:
                self._main_process_ended()
                return
            self._handle(message)

    def _handle(self, message: Message) -> None:
        if message.kind is Kind.MOVE:
            self._add(message)
            return
        if message.kind is Kind.PING:
            self._say(Kind.PONG, 0, 0)
            return
        if message.kind is Kind.END:
            self._is_over = True
            return
        pair = self._pairs.get(message.slot)
        if pair is None:
            return  # it has ended at the same moment
        if message.kind is Kind.ABORT:
            self._end(pair, Ended.ABORTED)
        elif message.kind is Kind.RETURN:
            pair.is_returning = True
            if pair.can_return:
                self._return(pair)

    def _add(self, message: Message) -> None:
        if not message.descriptors:  # this process has no descriptors left
            self._say(Kind.ENDED, message.slot, Ended.ABORTED)
            return
        a, b = (socket.socket(fileno=descriptor) for descriptor in message.descriptors)
        pair = Pair(message.slot, a, b, self._counts, self._pipes)
        self._pairs[message.slot] = pair
        self._holder_of[message.slot] = message.value
        holder = self._holders.setdefault(message.value, _Holder())
        holder.pairs += 1
        wanted = select.EPOLLIN | select.EPOLLPRI | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
        try:
            for channel in (pair.a, pair.b):
                # The first event says what the socket is already ready for.
                self._epoll.register(channel.descriptor, wanted)
                self._by_descriptor[channel.descriptor] = channel, holder
        except OSError:
            self._end(pair, Ended.ABORTED)

    def _end(self, pair: Pair, end: Ended) -> None:
        self._forget(pair)
        pair.close(gracefully=end is Ended.FINISHED)
        self._say(Kind.ENDED, pair.slot, end)

    def _return(self, pair: Pair) -> None:
        self._forget(pair)
        passed_on = pair.a_to_b.has_ended | pair.b_to_a.has_ended << 1
        self._say(Kind.RETURNED, pair.slot, passed_on, (pair.a.sock, pair.b.sock))

    def _forget(self, pair: Pair) -> None:
        pair.is_over = True
        del self._pairs[pair.slot]
        number = self._holder_of.pop(pair.slot)
        holder = self._holders[number]
        holder.pairs -= 1
        if not holder.pairs:
            del self._holders[number]
        for channel in (pair.a, pair.b):
            if self._by_descriptor.pop(channel.descriptor, None) is not None:
                self._epoll.unregister(channel.descriptor)

    def _main_process_ended(self) -> None:
        """Go on without a main process, because it has ended, or stopped sending. If that is not wanted, end."""
        self._control.settimeout(_LAST_MESSAGES_SECONDS)
        self._send_unsent()
        if self._is_leaving or not self._keep or not self._pairs:
            for pair in list(self._pairs.values()):
                self._end(pair, Ended.ABORTED)
            self._is_over = True
            return
        # The main process has not heard of these. Pairs that could not be returned are reset.
        unheard = {slot: value if kind is Kind.ENDED else Ended.ABORTED
                   for kind, slot, value, _ in self._unsent if kind in (Kind.ENDED, Kind.RETURNED)}  # fmt: skip
        for _, _, _, sockets in self._unsent:
            for sock in sockets:
                sock.close()
        self._unsent.clear()
        holders = {**self._holder_of, **dict.fromkeys(unheard, 0)}
        for slot in holders:
            for index in (2 * slot, 2 * slot + 1):
                self._counts[SETTLED + index] = self._counts[index]
        self._say(Kind.KEPT, 0, 0)
        self._unsent.clear()
        self._epoll.unregister(self._control)
        self._control.close()
        self._orphaned = OrphanedWorker(holders, self._memory, self._epoll, self._keep)
        for slot, end in unheard.items():
            self._orphaned.note_end(slot, end)
        for pair in self._pairs.values():
            pair.is_returning = False
        _close_inherited_output()

    def _look_for_main_process(self, orphaned: OrphanedWorker) -> None:
        control = orphaned.step()
        if orphaned.is_over or self._is_leaving:
            self._is_over = True
        elif control is not None:
            self._control, self._keep, self._orphaned = control, orphaned.keep_next, None
            for slot, end in orphaned.ended.items():
                self._say(Kind.ENDED, slot, end)

    def _say(self, kind: Kind, slot: int, value: int, sockets: tuple[socket.socket, ...] = ()) -> None:
        if self._orphaned is not None:
            if kind is Kind.ENDED:
                self._orphaned.note_end(slot, value)
            return
        self._unsent.append((kind, slot, value, sockets))
        if len(self._unsent) == 1:
            self._send_unsent()

    def _send_unsent(self) -> None:
        while self._unsent:
            kind, slot, value, sockets = self._unsent[0]
            try:
                send(self._control, kind, slot, value, tuple(sock.fileno() for sock in sockets))
            except BlockingIOError:
                break
            except (ConnectionError, TimeoutError):
                return  # the main process has ended, which `_talk` notices, or does not read its last messages
            except OSError as exc:
                if exc.errno != errno.ETOOMANYREFS:
                    self._is_over = True
                    return
                # Too many descriptors of this user are on their way between processes: the connections are reset.
                self._unsent[0] = Kind.ENDED, slot, Ended.ABORTED, ()
                for sock in sockets:
                    sock.close()
                continue
            for sock in sockets:
                sock.close()
            self._unsent.popleft()
        self._epoll.modify(self._control, select.EPOLLIN | (select.EPOLLOUT if self._unsent else 0))


def _close_inherited_output() -> None:
    """Close the standard output and error that were inherited from the main process. A program that reads them then
    gets the end of file, because the main process has ended."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
