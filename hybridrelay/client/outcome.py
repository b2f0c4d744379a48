"""How an application's connection and its stream ended. Pure."""

from __future__ import annotations

import enum

import attrs

from .._value import Value
from ..mux import Bridged, FlowEnd, Party, StreamEnd
from ..protocol.reasons import Reason

__all__ = ["Disconnected", "Ending", "outcome_of", "outcome_of_flow", "outcome_of_stream"]


class Ending(enum.StrEnum):
    """How one direction of a stream ended, as far as this side can tell."""

    #: The sending side ended it, and everything arrived, including the end of file: the connector has acknowledged
    #: it, or the application's socket has accepted it.
    FINISHED = "finished"
    #: The target stopped reading without resetting its connection.
    STOPPED_BY_TARGET = "stopped-by-target"
    #: The application has closed the stream without reading the rest.
    STOPPED_BY_APPLICATION = "stopped-by-application"
    RESET_BY_APPLICATION = "reset-by-application"
    #: The target or the connector reset the stream.
    RESET_BY_TARGET = "reset-by-target"
    #: The session or the client ended first.
    LOST = "lost"
    #: Everything was sent, and the connector has not acknowledged the end in time. It may still arrive.
    UNCONFIRMED = "unconfirmed"


@attrs.frozen
class Disconnected(Value):
    """How a connection and its stream ended."""

    #: ``closed``, ``closed-with-reset``, ``unconfirmed`` or ``broken``.
    kind: str
    to_target: Ending
    to_client: Ending
    reason: Reason


_BROKEN_BY = {
    Party.NOBODY: Ending.UNCONFIRMED,
    Party.LOCAL: Ending.RESET_BY_APPLICATION,
    Party.PEER: Ending.RESET_BY_TARGET,
    Party.SESSION: Ending.LOST,
    Party.CALLER: Ending.LOST,
}


def outcome_of(bridged: Bridged) -> Disconnected:
    """Return how a bridge between an application's connection and its stream ended.

    A stream is *closed* if both directions finished. It is *closed with a reset* if one direction finished and the
    other one did not, in one of two ways that many programs use: the side that had received everything reset its
    connection instead of ending its own direction, or the side that had sent everything stopped reading. It is
    *unconfirmed* if nothing has failed, and the connector has not acknowledged in time that everything has arrived.
    Everything else is *broken*.
    """
    broke = _BROKEN_BY[bridged.ended_by]
    to_target = Ending.FINISHED if bridged.sent_all else broke
    to_client = Ending.FINISHED if bridged.received_all else broke
    if bridged.peer_stopped and not bridged.sent_all:
        to_target = Ending.STOPPED_BY_TARGET
    if bridged.program_ended and bridged.ended_by is Party.NOBODY:
        to_client = Ending.STOPPED_BY_APPLICATION
    kind = _kind(to_target, to_client)
    return Disconnected(kind, to_target, to_client, Reason.NO_ERROR if kind == "closed" else bridged.reason)


def outcome_of_stream(end: StreamEnd) -> Disconnected:
    """Return how a stream ended that the program used directly, without a bridge. The rules are those of
    `outcome_of`."""
    broke = _BROKEN_BY[end.ended_by]
    to_target = Ending.FINISHED if end.sent_all else Ending.STOPPED_BY_TARGET if end.peer_stopped else broke
    stopped = Ending.STOPPED_BY_APPLICATION if end.was_closed else broke
    to_client = Ending.FINISHED if end.received_all else stopped
    kind = _kind(to_target, to_client)
    return Disconnected(kind, to_target, to_client, Reason.NO_ERROR if kind == "closed" else end.reason)


def outcome_of_flow(end: FlowEnd) -> Disconnected:
    """Return how a flow of datagrams ended: *closed* if one side has ended it, otherwise *broken*."""
    if end.reason is Reason.NO_ERROR:
        return Disconnected("closed", Ending.FINISHED, Ending.FINISHED, Reason.NO_ERROR)
    broke = _BROKEN_BY[end.ended_by]
    return Disconnected("broken", broke, broke, end.reason)


def _kind(to_target: Ending, to_client: Ending) -> str:
    if to_target is to_client is Ending.FINISHED:
        return "closed"
    if to_target is Ending.UNCONFIRMED:
        return "unconfirmed"
    application_ended = (to_client is Ending.FINISHED and to_target is Ending.RESET_BY_APPLICATION) or (
        to_target is Ending.FINISHED and to_client is Ending.STOPPED_BY_APPLICATION
    )
    target_ended = (to_target is Ending.FINISHED and to_client is Ending.RESET_BY_TARGET) or (
        to_client is Ending.FINISHED and to_target is Ending.STOPPED_BY_TARGET
    )
    return "closed-with-reset" if application_ended or target_ended else "broken"
