"""The messages between the relay's main process and a worker, over a Unix socket that keeps message boundaries.

Every message has the same size, and some carry two descriptors (SCM_RIGHTS): the sockets of the first and of the
second data channel of a pair.

A pair is identified by its *slot*, which the main process chooses. The worker counts the bytes of a pair in memory
that it shares with the main process, at the slot's position, so the counts are exact at any time, even if the worker
is killed.
"""

from __future__ import annotations

import array
import enum
import os
import socket
import struct
from dataclasses import dataclass
from typing import Protocol

__all__ = ["COUNTS_BYTES", "MESSAGE_BYTES", "SLOTS", "Counts", "Ended", "Kind", "Message", "receive", "send"]

#: How many pairs a worker can have at the same time.
SLOTS = 32_768
#: The size of the shared memory: for each slot, two counts of eight bytes in the byte order of the machine: how many
#: bytes were passed from the first channel to the second one, and in the other direction.
COUNTS_BYTES = SLOTS * 2 * 8

_LAYOUT = struct.Struct("=BIQ")
MESSAGE_BYTES = _LAYOUT.size
_DESCRIPTORS = 2


class Counts(Protocol):
    """The counts of all slots; see `COUNTS_BYTES`."""

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


class Kind(enum.IntEnum):
    """What a message says."""

    # From the main process:

    #: Move the bytes of this pair. The message carries its two sockets, which are set so that closing them resets
    #: their connections (SO_LINGER). The value identifies the holder of the pair.
    MOVE = 1
    #: Reset both connections of this pair. `ENDED` follows.
    ABORT = 2
    #: Return the sockets as soon as everything that was read has been passed on. `RETURNED` or `ENDED` follows. Until
    #: then, both directions continue: a receiver may be one that does not read before it has sent everything.
    RETURN = 3
    #: To be answered by `PONG`, which shows that the worker is not stuck.
    PING = 4

    # From the worker:

    #: The worker has started, and takes pairs.
    READY = 5
    #: The answer to `PING`.
    PONG = 6
    #: The pair has ended, and both sockets are closed. The value is one of `Ended`.
    ENDED = 7
    #: The worker returns the pair. The message carries its two sockets. Bit 0 of the value is set if the end of file
    #: of the first channel was passed on, and bit 1 if that of the second channel was.
    RETURNED = 8
    #: The system has refused to splice, so everything is copied for a while. The value is the error number.
    COPIES = 9


class Ended(enum.IntEnum):
    """How a pair has ended."""

    #: Both ends of file were passed on.
    FINISHED = 0
    #: The first channel has failed; the second one was reset.
    A_BROKE = 1
    #: The second channel has failed; the first one was reset.
    B_BROKE = 2
    #: The main process has requested it.
    ABORTED = 3


@dataclass(frozen=True)
class Message:
    """One message, and the descriptors that came with it, which belong to the receiver."""

    kind: Kind
    slot: int
    value: int = 0
    descriptors: tuple[int, ...] = ()


def send(sock: socket.socket, kind: Kind, slot: int, value: int = 0, descriptors: tuple[int, ...] = ()) -> None:
    """Send a message without waiting. The descriptors stay open in this process.

    Raises:
        BlockingIOError: the socket's buffer is full.
        OSError: the other process has ended, or too many descriptors are on their way.
    """
    data = _LAYOUT.pack(kind, slot, value)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sock.sendmsg([data], rights)


def receive(sock: socket.socket) -> Message | None:
    """Receive a message without waiting. Returns None if the other process has ended.

    A message whose descriptors could not be received, because this process has none left, comes without them.

    Raises:
        BlockingIOError: there is no message.
        OSError, ValueError: the other process does not follow the protocol. Descriptors that came with the message
            are closed.
    """
    room = socket.CMSG_SPACE(_DESCRIPTORS * array.array("i").itemsize)
    data, ancillary, flags, _ = sock.recvmsg(MESSAGE_BYTES, room)
    descriptors = array.array("i")
    for level, what, content in ancillary:
        if (level, what) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    try:
        if not data:
            _close(descriptors)
            return None
        number, slot, value = _LAYOUT.unpack(data)
        kind = Kind(number)
        if slot >= SLOTS:
            raise ValueError(f"there is no slot {slot}")
        carries = kind in (Kind.MOVE, Kind.RETURNED)
        if flags & socket.MSG_TRUNC or (descriptors and not carries):
            raise ValueError(f"{kind.name} with {len(descriptors)} descriptors")
        if len(descriptors) != _DESCRIPTORS:
            _close(descriptors)
            descriptors = array.array("i")
    except (ValueError, struct.error) as exc:
        _close(descriptors)
        raise ValueError(str(exc)) from None
    return Message(kind, slot, value, tuple(descriptors))


def _close(descriptors: array.array[int]) -> None:
    for one in descriptors:
        os.close(one)
