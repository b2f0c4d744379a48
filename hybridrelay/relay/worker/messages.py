"""The messages between the relay's main process and a worker, over a Unix socket that keeps message boundaries.

Every message has the same size, and some carry descriptors (SCM_RIGHTS): the sockets of the first and of the second
data channel of a pair, or the memory.

A pair is identified by its *slot*, which the main process chooses. The worker counts the bytes of a pair in memory
that it shares with the main process, at the slot's position, so the counts are exact at any time, even if one of the
two processes is killed.

A worker whose main process has ended (`orphaned`) connects to the next one. It says `HELLO`, and the main process
answers with `HELLO`. If both have the same `VERSION`, the worker lists its pairs (`HAS`), and says `READY`. From
`TAKEN` on, it is as if the main process had started the worker. Between different versions, nothing but `HELLO` is
understood: the worker ends, and its sessions resume.
"""

from __future__ import annotations

import array
import enum
import os
import socket
import struct
from dataclasses import dataclass
from typing import Protocol

__all__ = [
    "COUNTS_BYTES",
    "MEMORY_BYTES",
    "MESSAGE_BYTES",
    "NOTE_BYTES",
    "SETTLED",
    "SLOTS",
    "SOCKET_NAME",
    "VERSION",
    "Counts",
    "Ended",
    "Kind",
    "Message",
    "receive",
    "send",
]

#: The version of the messages, of the memory, and of the notes in it. It has to be increased with every change to one
#: of them (`relay.core.pair_note` has the content of the notes). What `HELLO` looks like must never change.
VERSION = 1
#: The socket in the state directory on which a main process waits for workers that have lost theirs.
SOCKET_NAME = "workers.sock"
#: How many pairs a worker can have at the same time.
SLOTS = 32_768
#: The index at which the second half of the counts begins.
SETTLED = SLOTS * 2
#: The first part of the shared memory: for each slot, two counts of eight bytes in the byte order of the machine: how
#: many bytes were passed from the first channel to the second one, and in the other direction. From the index
#: `SETTLED` on, there are two more for each slot: how many of these bytes the previous main process had counted for
#: usage and quotas before it ended. The worker writes them when it notices that its main process has ended. A main
#: process that is not killed then replaces them with exact numbers.
COUNTS_BYTES = (SETTLED + SLOTS * 2) * 8
#: The second part: for each slot, a note in which the main process has written what its successor has to know about
#: the pair. Workers do not read it.
NOTE_BYTES = 1536
MEMORY_BYTES = COUNTS_BYTES + SLOTS * NOTE_BYTES

_LAYOUT = struct.Struct("=BIQ")
MESSAGE_BYTES = _LAYOUT.size
_MAX_DESCRIPTORS = 2


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
    #: then, both directions continue, because a receiver may begin to read only when everything that it sends has
    #: been read.
    RETURN = 3
    #: To be answered by `PONG`, which shows that the worker is not stuck.
    PING = 4
    #: Reset the connections of all pairs, and end.
    END = 10
    #: From now on, this is the worker's main process. The value says how long the worker is to keep its pairs without
    #: this one (milliseconds).
    TAKEN = 11

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
    #: The last message to a main process that has stopped sending: the worker keeps its pairs for the next one.
    KEPT = 12
    #: The worker has this pair, which the previous main process has given to it. The value is that of `MOVE`.
    HAS = 13

    # From both:

    #: The first message between a worker and a main process that has not started it. The value is `VERSION`; the
    #: worker sends the descriptor of its memory with it.
    HELLO = 14


#: How many descriptors each kind of message carries. A `HELLO` of the main process has none.
_CARRIES = {Kind.MOVE: 2, Kind.RETURNED: 2, Kind.HELLO: 1}


class Ended(enum.IntEnum):
    """How a pair has ended."""

    #: Both ends of file were passed on.
    FINISHED = 0
    #: The first channel has failed; the second one was reset.
    A_BROKE = 1
    #: The second channel has failed; the first one was reset.
    B_BROKE = 2
    #: The main process has requested it, or has ended; or the worker cannot serve the pair or return it, because the
    #: system has no more descriptors for it. Both connections were reset.
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
    room = socket.CMSG_SPACE(_MAX_DESCRIPTORS * array.array("i").itemsize)
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
        carries = _CARRIES.get(kind, 0)
        if flags & socket.MSG_TRUNC or (descriptors and not carries):
            raise ValueError(f"{kind.name} with {len(descriptors)} descriptors")
        if len(descriptors) != carries:
            _close(descriptors)
            descriptors = array.array("i")
    except (ValueError, struct.error) as exc:
        _close(descriptors)
        raise ValueError(str(exc)) from None
    return Message(kind, slot, value, tuple(descriptors))


def _close(descriptors: array.array[int]) -> None:
    for one in descriptors:
        os.close(one)
