"""Permission to begin TLS handshakes: the Trio shell around `HandshakeQueue`."""

from __future__ import annotations

import math
from typing import Self

import trio

from ..limits import (
    HANDSHAKES_OF_ADDRESS,
    HANDSHAKES_OF_KEY,
    HANDSHAKES_OF_KNOWN,
    HANDSHAKES_OF_PROVED,
    HANDSHAKES_OF_STRANGERS,
    REMEMBERED_ADDRESSES,
)
from .handshakes import Handshake, HandshakeQueue
from .slots import address_group

__all__ = ["HandshakePermit", "HandshakeScheduler"]


class HandshakeScheduler:
    """Lets at most one handshake begin in each pass of the event loop.

    Args:
        queue: decides which one is next; None makes a queue with the relay's limits.
    """

    def __init__(self, queue: HandshakeQueue | None = None) -> None:
        self._queue = queue or HandshakeQueue(
            HANDSHAKES_OF_STRANGERS,
            HANDSHAKES_OF_KNOWN,
            HANDSHAKES_OF_ADDRESS,
            proved=HANDSHAKES_OF_PROVED,
            each_key=HANDSHAKES_OF_KEY,
            remembered=REMEMBERED_ADDRESSES,
        )
        self._changed = trio.Event()

    @property
    def waiting(self) -> int:
        """How many handshakes are waiting."""
        return self._queue.waiting

    def add(self, handshake: Handshake) -> None:
        """See `HandshakeQueue.add`. `run` calls `Handshake.on_permit` when the handshake may begin."""
        self._queue.add(handshake, trio.current_time())
        self._changed.set()

    def leave(self, handshake: Handshake) -> None:
        """See `HandshakeQueue.leave`."""
        self._queue.leave(handshake, trio.current_time())

    def authenticated(self, handshake: Handshake) -> None:
        """See `HandshakeQueue.authenticated`."""
        self._queue.authenticated(handshake, trio.current_time())
        self._changed.set()

    async def run(self) -> None:
        """Permit handshakes until cancelled."""
        while True:
            handshake = self._queue.begin(trio.current_time())
            if handshake is not None:
                handshake.on_permit()
                # Let all other tasks run before the next handshake.
                await trio.lowlevel.checkpoint()
                continue
            until = self._queue.next_at()
            with trio.move_on_at(math.inf if until is None else until):
                await self._changed.wait()
            if self._changed.is_set():
                self._changed = trio.Event()


class HandshakePermit:
    """Permission for the handshakes of one connection, in the task that serves it.

    Use it in a `with` statement around the authentication of the connection.

    Args:
        scheduler: the relay's scheduler.
        handshake: the handshakes of the connection.
        is_granted: whether the connection already has permission for its first handshake.
    """

    def __init__(self, scheduler: HandshakeScheduler, handshake: Handshake, *, is_granted: bool) -> None:
        self._scheduler = scheduler
        self._handshake = handshake
        self._is_granted = is_granted

    @classmethod
    def of_new_connection(cls, scheduler: HandshakeScheduler, address: str) -> HandshakePermit:
        """Make the permit of a connection from `address` that has not waited for a handshake yet."""
        return cls(scheduler, Handshake(address_group(address), lambda: None), is_granted=False)

    async def wait(self) -> None:
        """Wait until this connection may begin its next handshake."""
        if self._is_granted:
            self._is_granted = False
            return
        permitted = trio.Event()
        self._handshake.on_permit = permitted.set
        self._scheduler.add(self._handshake)
        await permitted.wait()

    def prove(self, key_id: bytes) -> None:
        """Give further handshakes priority over those of strangers, because the peer has proved that it has an access
        key."""
        self._handshake.key_id = key_id

    def move(self, address: str) -> None:
        """Count further handshakes for `address`, from which the connection comes according to a trusted proxy."""
        self._handshake.group = address_group(address)

    def authenticated(self) -> None:
        """Note that the peer has presented a token or a ticket."""
        self._scheduler.authenticated(self._handshake)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Leave the queue, because the connection has authenticated or has ended."""
        self._scheduler.leave(self._handshake)
