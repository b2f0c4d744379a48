"""The states of a stream, and all transitions between them. SPEC.md, section 3.

A stream is three small machines: the *opening* (answered or not yet), the *sending* direction and the *receiving*
direction. They are the same for both sides. Names of inputs that this side causes begin with SEND, except
FIN_WRITTEN, which means that our FIN was written; those of the peer begin with RECV. A pair of state and input that
is not in a table is an error: a `RemoteProtocolError` for a RECV, and a `LocalProtocolError` for any other input.

Two rules keep the tables small:

* An abort (RESET or REFUSED, sent or received, or the loss of the session) moves all three machines to ABORTED.
* After our abort, frames from the peer are ignored, because it may not know of the abort yet. After the peer's abort,
    any further frame from it is an error.
"""

from __future__ import annotations

import enum

from .errors import LocalProtocolError, RemoteProtocolError


class Input(enum.Enum):
    SEND_OPENED = enum.auto()
    SEND_REFUSED = enum.auto()
    SEND_DATA = enum.auto()
    SEND_FIN = enum.auto()  #: the application ends its direction; FIN follows its data
    FIN_WRITTEN = enum.auto()
    SEND_STOP = enum.auto()
    SEND_RESET = enum.auto()
    RECV_OPENED = enum.auto()
    RECV_REFUSED = enum.auto()
    RECV_DATA = enum.auto()
    RECV_FIN = enum.auto()
    RECV_STOP = enum.auto()
    RECV_RESET = enum.auto()

    # Hash by identity, which is also how members are compared. The hash function of `enum` is slow, and the tables
    # below are looked up for every frame.
    __hash__ = object.__hash__


class Opening(enum.Enum):
    #: We sent OPEN and wait for the answer.
    AWAITING = enum.auto()
    #: The peer sent OPEN and waits for our answer.
    OFFERED = enum.auto()
    ANSWERED = enum.auto()
    ABORTED = enum.auto()

    __hash__ = object.__hash__


class Sending(enum.Enum):
    OPEN = enum.auto()
    #: FIN is queued after data.
    FINISHING = enum.auto()
    #: Like FINISHING, but after the peer's STOP: what was queued is dropped, and the application has to be informed.
    STOPPED = enum.auto()
    FINISHED = enum.auto()
    ABORTED = enum.auto()

    __hash__ = object.__hash__


class Receiving(enum.Enum):
    OPEN = enum.auto()
    #: We have sent STOP. Data that arrives before FIN is dropped.
    STOPPED = enum.auto()
    FINISHED = enum.auto()
    ABORTED = enum.auto()

    __hash__ = object.__hash__


OPENING: dict[tuple[Opening, Input], Opening] = {
    (Opening.AWAITING, Input.RECV_OPENED): Opening.ANSWERED,
    (Opening.AWAITING, Input.RECV_REFUSED): Opening.ABORTED,
    (Opening.AWAITING, Input.SEND_RESET): Opening.ABORTED,
    (Opening.AWAITING, Input.SEND_DATA): Opening.AWAITING,
    (Opening.AWAITING, Input.SEND_FIN): Opening.AWAITING,
    (Opening.AWAITING, Input.FIN_WRITTEN): Opening.AWAITING,
    (Opening.AWAITING, Input.SEND_STOP): Opening.AWAITING,
    (Opening.OFFERED, Input.SEND_OPENED): Opening.ANSWERED,
    (Opening.OFFERED, Input.SEND_REFUSED): Opening.ABORTED,
    (Opening.OFFERED, Input.RECV_DATA): Opening.OFFERED,
    (Opening.OFFERED, Input.RECV_FIN): Opening.OFFERED,
    (Opening.OFFERED, Input.RECV_STOP): Opening.OFFERED,
    (Opening.OFFERED, Input.RECV_RESET): Opening.ABORTED,
    (Opening.ANSWERED, Input.SEND_DATA): Opening.ANSWERED,
    (Opening.ANSWERED, Input.SEND_FIN): Opening.ANSWERED,
    (Opening.ANSWERED, Input.FIN_WRITTEN): Opening.ANSWERED,
    (Opening.ANSWERED, Input.SEND_STOP): Opening.ANSWERED,
    (Opening.ANSWERED, Input.SEND_RESET): Opening.ABORTED,
    (Opening.ANSWERED, Input.RECV_DATA): Opening.ANSWERED,
    (Opening.ANSWERED, Input.RECV_FIN): Opening.ANSWERED,
    (Opening.ANSWERED, Input.RECV_STOP): Opening.ANSWERED,
    (Opening.ANSWERED, Input.RECV_RESET): Opening.ABORTED,
}

SENDING: dict[tuple[Sending, Input], Sending] = {
    (Sending.OPEN, Input.SEND_DATA): Sending.OPEN,
    (Sending.OPEN, Input.SEND_FIN): Sending.FINISHING,
    (Sending.OPEN, Input.RECV_STOP): Sending.STOPPED,
    (Sending.FINISHING, Input.SEND_FIN): Sending.FINISHING,
    (Sending.FINISHING, Input.FIN_WRITTEN): Sending.FINISHED,
    (Sending.FINISHING, Input.RECV_STOP): Sending.FINISHING,
    (Sending.STOPPED, Input.SEND_FIN): Sending.STOPPED,
    (Sending.STOPPED, Input.FIN_WRITTEN): Sending.FINISHED,
    (Sending.FINISHED, Input.SEND_FIN): Sending.FINISHED,
    # The peer sent STOP before our FIN reached it.
    (Sending.FINISHED, Input.RECV_STOP): Sending.FINISHED,
}

RECEIVING: dict[tuple[Receiving, Input], Receiving] = {
    (Receiving.OPEN, Input.RECV_DATA): Receiving.OPEN,
    (Receiving.OPEN, Input.RECV_FIN): Receiving.FINISHED,
    (Receiving.OPEN, Input.SEND_STOP): Receiving.STOPPED,
    (Receiving.STOPPED, Input.RECV_DATA): Receiving.STOPPED,
    (Receiving.STOPPED, Input.RECV_FIN): Receiving.FINISHED,
    (Receiving.STOPPED, Input.SEND_STOP): Receiving.STOPPED,
    (Receiving.FINISHED, Input.SEND_STOP): Receiving.FINISHED,
}

ABORTS = frozenset({Input.SEND_REFUSED, Input.SEND_RESET, Input.RECV_REFUSED, Input.RECV_RESET})
_REMOTE = frozenset(cause for cause in Input if cause.name.startswith("RECV"))
_SENDING_INPUTS = frozenset(key for _, key in SENDING)
_RECEIVING_INPUTS = frozenset(key for _, key in RECEIVING)


def _moves() -> dict[tuple[Opening, Sending, Receiving, Input], tuple[Opening, Sending, Receiving]]:
    """Combine the three tables into one, for fast lookups in `StreamStates.apply`. Aborts are left out."""
    return {
        (opening, sending, receiving, cause): (
            next_opening,
            SENDING[sending, cause] if cause in _SENDING_INPUTS else sending,
            RECEIVING[receiving, cause] if cause in _RECEIVING_INPUTS else receiving,
        )
        for (opening, cause), next_opening in OPENING.items()
        for sending in Sending
        for receiving in Receiving
        if cause not in ABORTS
        and (cause not in _SENDING_INPUTS or (sending, cause) in SENDING)
        and (cause not in _RECEIVING_INPUTS or (receiving, cause) in RECEIVING)
    }


_MOVES = _moves()


class StreamStates:
    """The three machines of one stream. Only `apply` and `lose` change their states."""

    __slots__ = ("aborted_by_us", "opening", "receiving", "sending")

    def __init__(self, opening: Opening) -> None:
        self.opening = opening
        self.sending = Sending.OPEN
        self.receiving = Receiving.OPEN
        #: Whether we sent the RESET or REFUSED.
        self.aborted_by_us = False

    @property
    def is_aborted(self) -> bool:
        return self.opening is Opening.ABORTED

    @property
    def is_over(self) -> bool:
        """Whether nothing except acknowledgements can follow."""
        return self.is_aborted or (
            self.opening is Opening.ANSWERED
            and self.sending is Sending.FINISHED
            and self.receiving is Receiving.FINISHED
        )

    def apply(self, cause: Input) -> bool:
        """Apply an input to all three machines.

        Returns:
            False if the input has to be ignored, because we have aborted the stream and the peer may not know yet.

        Raises:
            LocalProtocolError: we may not send that now.
            RemoteProtocolError: the peer may not send that now.
        """
        move = _MOVES.get((self.opening, self.sending, self.receiving, cause))
        if move is not None:
            self.opening, self.sending, self.receiving = move
            return True
        remote = cause in _REMOTE
        if self.is_aborted and self.aborted_by_us and remote:
            return False
        if cause not in ABORTS or (self.opening, cause) not in OPENING:
            frame = cause.name.removeprefix("SEND_").removeprefix("RECV_")
            state = f"opening: {self.opening.name}, sending: {self.sending.name}, receiving: {self.receiving.name}"
            if remote:
                raise RemoteProtocolError(f"the peer sent {frame} on a stream that does not allow it now ({state})")
            raise LocalProtocolError(f"{frame} is not possible on this stream now ({state})")
        self.opening, self.sending, self.receiving = Opening.ABORTED, Sending.ABORTED, Receiving.ABORTED
        self.aborted_by_us = not remote
        return True

    def lose(self) -> None:
        """Abort the stream, whatever its state, because its session is lost."""
        self.opening, self.sending, self.receiving = Opening.ABORTED, Sending.ABORTED, Receiving.ABORTED
