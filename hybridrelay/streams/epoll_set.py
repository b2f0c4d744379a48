"""The epoll set of the reactor: sockets that are registered once, edge-triggered, so that waiting for them costs no
system call."""

from __future__ import annotations

import contextlib
import os
import select

import trio

from .nowait import NowaitStream
from .registration import Handler, Registration, Rounds
from .turns import SharedTurns

__all__ = ["EpollSet", "PolledRegistration", "new_epoll_set"]

if hasattr(select, "epoll"):
    #: What is reported if a connection ends or fails, and if the peer has sent urgent data. (A read stops at urgent
    #: data even if more has arrived after it.)
    _HUNG_UP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLPRI
    _EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET


class EpollSet:
    """The sockets that are registered in the epoll set, each once and edge-triggered."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._by_fd: dict[int, Registration] = {}

    def fileno(self) -> int:
        """Return the descriptor, which is readable while a socket is ready."""
        return self._epoll.fileno()

    def add(self, registration: Registration) -> int:
        """Register the socket of a stream. What it is ready for now is reported, too. Returns its descriptor.

        Raises:
            OSError: the descriptor was closed, or the system's limit is reached (``max_user_watches``).
        """
        sock = registration.stream.socket_below
        assert sock is not None
        fd = sock.fileno()
        self._epoll.register(fd, _EVENTS)
        self._by_fd[fd] = registration
        return fd

    def remove(self, registration: Registration, fd: int) -> None:
        """Forget a socket. It may already have been closed, and its descriptor may belong to another one."""
        if self._by_fd.get(fd) is not registration:
            return
        del self._by_fd[fd]
        with contextlib.suppress(OSError, ValueError):
            self._epoll.unregister(fd)

    def collect(self) -> None:
        """Pass on what has happened since the last call."""
        for fd, events in self._epoll.poll(0):
            registration = self._by_fd.get(fd)
            if registration is not None:
                registration.on_event(
                    readable=bool(events & select.EPOLLIN),
                    hung_up=bool(events & _HUNG_UP),
                    writable=bool(events & select.EPOLLOUT),
                    broken=bool(events & select.EPOLLERR),
                )

    def close(self) -> None:
        """Close the set."""
        trio.lowlevel.notify_closing(self._epoll.fileno())
        self._epoll.close()


def new_epoll_set() -> EpollSet | None:
    """Return an epoll set; None if there is none, so that tasks wait instead."""
    if not hasattr(select, "epoll") or os.environ.get("HYBRIDRELAY_POLLING") == "tasks":
        return None
    try:
        return EpollSet()
    except OSError:  # no descriptor is left; tasks that wait need none
        return None


class PolledRegistration(Registration):
    """A stream whose socket is in the epoll set."""

    __slots__ = ("_epoll_set", "_fd")

    def __init__(
        self, rounds: Rounds, stream: NowaitStream, handler: Handler, turns: SharedTurns, epoll_set: EpollSet
    ) -> None:
        super().__init__(rounds, stream, handler, turns)
        self._epoll_set = epoll_set
        self._fd = epoll_set.add(self)

    def close(self) -> None:
        if not self._is_closed:
            super().close()
            self._epoll_set.remove(self, self._fd)
