"""The two exceptions of the session protocol, and their base class."""

from __future__ import annotations

from .reasons import Reason


class ProtocolError(Exception):
    """The base class: a side violated the protocol."""


class LocalProtocolError(ProtocolError):
    """The caller on this side asked for something that is not possible. Nothing was sent.

    `reason` says why, for instance why the session ended, or that a limit is reached. It is `Reason.INTERNAL_ERROR`
    if the call was a bug.
    """

    def __init__(self, message: str, *, reason: Reason = Reason.INTERNAL_ERROR) -> None:
        super().__init__(message)
        self.reason = reason


class RemoteProtocolError(ProtocolError):
    """The peer violated the protocol. No other exception can be caused by bytes from the peer.

    `reason` is the reason to send in GOAWAY (or in the status) before the connection is closed.
    """

    def __init__(self, message: str, *, reason: Reason = Reason.PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.reason = reason
