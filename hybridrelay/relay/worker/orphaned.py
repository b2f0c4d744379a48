"""What a worker does while it has no main process, besides moving bytes.

The main process may have been killed, or stopped for an upgrade. The worker keeps its pairs for the next one. It does
so only for a limited time, because meanwhile nobody can end these pairs, for example when a key is revoked. The next
main process waits for it on a socket in the current directory, which is the relay's state directory. `messages`
describes what they say to each other.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping

from .messages import SOCKET_NAME, VERSION, Kind, receive, send

__all__ = ["OrphanedWorker"]

#: How long to wait between two attempts to connect (seconds): first, and at most.
_FIRST_PAUSE = 0.05
_MAX_PAUSE = 0.5
#: How long a worker whose pairs have all ended waits for the next main process, to report how they ended (seconds).
_REPORT_SECONDS = 5.0
#: How long a main process that has answered `HELLO` may need until `TAKEN`, because it takes over the pairs of other
#: workers first (seconds).
_TAKING_SECONDS = 60.0


class OrphanedWorker:
    """A worker without a main process, from the end of one to `TAKEN` of the next.

    Args:
        holders: the number of the holder of each pair, by slot.
        memory: the descriptor of the memory.
        epoll: the worker's. It wakes the worker when the next main process says something.
        seconds: how long to wait for it.
        clock: returns seconds.
        path: the socket to connect to.
    """

    def __init__(
        self,
        holders: Mapping[int, int],
        memory: int,
        epoll: select.epoll,
        seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        path: str = SOCKET_NAME,
    ) -> None:
        self._holders = dict(holders)
        self._memory = memory
        self._epoll = epoll
        self._clock = clock
        self._path = path
        self._deadline = clock() + seconds
        #: It does not end before this time, because a main process has answered; -inf if none has.
        self._not_before = -math.inf
        self._next_attempt = clock()
        self._pause = _FIRST_PAUSE
        self._control: socket.socket | None = None
        self._unsent: deque[tuple[Kind, int, int, tuple[int, ...]]] = deque()
        #: How long to keep the pairs once the next main process has ended, too (seconds); known after `TAKEN`.
        self.keep_next = 0.0
        #: How pairs have ended, by slot, for the next main process.
        self.ended: dict[int, int] = {}
        #: Whether the worker has to end: it is too late, or the next main process does not want its pairs.
        self.is_over = False

    @property
    def timeout(self) -> float:
        """After how many seconds `step` has to be called again, even if the next main process says nothing."""
        due = self._ends_at if self._control is not None else min(self._ends_at, self._next_attempt)
        return max(0.0, min(due - self._clock(), _MAX_PAUSE))

    @property
    def _ends_at(self) -> float:
        return max(self._deadline, self._not_before)

    def note_end(self, slot: int, end: int) -> None:
        """Note that a pair has ended."""
        self.ended[slot] = end
        if len(self.ended) == len(self._holders):
            self._deadline = min(self._deadline, self._clock() + _REPORT_SECONDS)

    def step(self) -> socket.socket | None:
        """Do what is due, without waiting. Returns the socket to the next main process once it has taken over."""
        if self._clock() >= self._ends_at:
            self.is_over = True
        elif self._control is None:
            if self._clock() >= self._next_attempt:
                self._connect()
        else:
            try:
                return self._talk(self._control)
            except BlockingIOError:
                pass
            except (OSError, ValueError):
                self._disconnect()  # it has ended, or is another program
        return None

    def close(self) -> None:
        """Close the socket, if there is one."""
        if self._control is not None:
            self._disconnect()

    def _connect(self) -> None:
        self._next_attempt = self._clock() + self._pause
        self._pause = min(2 * self._pause, _MAX_PAUSE)
        try:
            control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            return  # this process has no descriptors left at the moment
        try:
            control.setblocking(False)
            control.connect(self._path)
            self._epoll.register(control, select.EPOLLIN)
        except OSError:
            control.close()
            return
        self._control = control
        self._unsent = deque([(Kind.HELLO, 0, VERSION, (self._memory,))])
        with contextlib.suppress(OSError):  # if it has ended, that is noticed later
            self._send_unsent(control)

    def _disconnect(self) -> None:
        assert self._control is not None
        with contextlib.suppress(OSError):
            self._epoll.unregister(self._control)
        self._control.close()
        self._control = None
        self._not_before = -math.inf

    def _talk(self, control: socket.socket) -> socket.socket | None:
        """Handle one message of the next main process. Raises BlockingIOError, OSError and ValueError like
        `receive`."""
        self._send_unsent(control)
        message = receive(control)
        if message is None:
            raise ConnectionResetError
        match message.kind:
            case Kind.HELLO:
                if message.value != VERSION:
                    self.is_over = True
                self._not_before = self._clock() + _TAKING_SECONDS
                self._unsent += [(Kind.HAS, slot, holder, ()) for slot, holder in self._holders.items()]
                self._unsent.append((Kind.READY, 0, 0, ()))
                self._send_unsent(control)
            case Kind.TAKEN:
                self._control = None
                self.keep_next = message.value / 1000
                return control
            case Kind.END:
                self.is_over = True
            case _:
                for descriptor in message.descriptors:
                    os.close(descriptor)
                raise ValueError(f"{message.kind.name} before TAKEN")
        return None

    def _send_unsent(self, control: socket.socket) -> None:
        try:
            while self._unsent:
                send(control, *self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            pass
        self._epoll.modify(control, select.EPOLLIN | (select.EPOLLOUT if self._unsent else 0))
