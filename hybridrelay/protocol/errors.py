"""The two exceptions of the sans-IO core."""

from __future__ import annotations

from .reasons import Reason


class ProtocolError(Exception):
    """Base of both: a side violated the protocol."""


class LocalProtocolError(ProtocolError):
    """The caller on this side asked for something that is not possible, now or ever. Nothing was sent.

    `reason` says why, for a caller that passes it on: how the session ended, a limit, ..., or
    `Reason.INTERNAL_ERROR` if the call was a bug.
    """

    def __init__(self, message: str, *, reason: Reason = Reason.INTERNAL_ERROR) -> None:
        super().__init__(message)
        self.reason = reason


class RemoteProtocolError(ProtocolError):
    """The peer violated the protocol: the only exception that bytes from the peer can cause.

    `reason` is what to put in the GOAWAY (or status) before the connection is closed.
    """

    def __init__(self, message: str, *, reason: Reason = Reason.PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.reason = reason
