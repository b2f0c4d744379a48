"""How a stream between an application and its target ended. Pure."""

from __future__ import annotations

import enum

import attrs

from .._value import Value
from ..mux import Bridged, FlowEnd, Party
from ..protocol.reasons import Reason
from .flow_bridge import FlowTotals

__all__ = ["Disconnected", "Ending", "NotConnected", "StreamOutcome", "outcome_of", "outcome_of_flow"]


class Ending(enum.StrEnum):
    """How one direction of a stream ended."""

    #: The sending side ended it, and everything arrived, including the end of file: the target's socket has accepted
    #: it, or the client has acknowledged it.
    FINISHED = "finished"
    #: The application stopped reading without resetting its connection.
    STOPPED_BY_APPLICATION = "stopped-by-application"
    RESET_BY_APPLICATION = "reset-by-application"
    RESET_BY_TARGET = "reset-by-target"
    #: The session or the connector ended first.
    LOST = "lost"
    #: Everything was sent, and the client has not acknowledged the end in time. It may still arrive.
    UNCONFIRMED = "unconfirmed"


@attrs.frozen
class NotConnected(Value):
    """The target never accepted a connection for the stream: the stream was refused or cancelled, or the
    connector stopped."""

    reason: Reason
    #: Further details, which are only for logs in the private network.
    detail: str = ""
    #: The text that is sent to the client; "" means the standard text of the reason.
    client_text: str = ""


@attrs.frozen
class Disconnected(Value):
    """The stream was connected to the target, and has ended."""

    #: ``closed``, ``closed-with-reset``, ``unconfirmed`` or ``broken``.
    kind: str
    to_target: Ending
    to_client: Ending
    reason: Reason
    bytes_to_target: int = 0
    bytes_to_client: int = 0
    #: What a flow of datagrams has carried; None for a stream.
    carried: FlowTotals | None = None


#: How a stream ended. Every stream has exactly one outcome, for whatever reason it ended, including cancellation.
StreamOutcome = NotConnected | Disconnected


def outcome_of(bridged: Bridged, *, cancelled_because: Reason = Reason.GOING_AWAY) -> Disconnected:
    """Return how a bridge between an application's stream and its target ended.

    A stream is *closed* if both directions finished. It is *closed with a reset* if one direction finished and the
    other one did not, in one of two ways that many programs use: the side that had received everything reset its
    connection instead of ending its own direction, or the application had sent everything and stopped reading. It is
    *unconfirmed* if nothing has failed, and the client has not acknowledged in time that everything has arrived.
    Everything else is *broken*.

    Args:
        bridged: the result of the bridge.
        cancelled_because: why this connector cancelled the bridge, if it did.
    """
    broke = {
        Party.NOBODY: Ending.UNCONFIRMED,
        Party.LOCAL: Ending.RESET_BY_TARGET,
        Party.PEER: Ending.RESET_BY_APPLICATION,
        Party.SESSION: Ending.LOST,
        Party.CALLER: Ending.LOST,
    }[bridged.ended_by]
    to_target = Ending.FINISHED if bridged.received_all else broke
    to_client = Ending.FINISHED if bridged.sent_all else broke
    if bridged.peer_stopped and not bridged.sent_all:
        to_client = Ending.STOPPED_BY_APPLICATION
    kind, reason = _kind(to_target, to_client), bridged.reason
    if kind == "closed":
        reason = Reason.NO_ERROR
    elif bridged.ended_by is Party.CALLER:
        reason = cancelled_because
    return Disconnected(kind, to_target, to_client, reason, bridged.received, bridged.sent)


def outcome_of_flow(
    end: FlowEnd, carried: FlowTotals, cut_off_because: Reason, *, has_target_failed: bool
) -> Disconnected:
    """Return how a flow of datagrams ended: *closed* if it was idle, or the client has ended it; otherwise *broken*.

    Args:
        end: how it ended.
        carried: what it has carried.
        has_target_failed: whether it ended because the target could not be reached.
        cut_off_because: why this connector cut it off, if it did.
    """
    reason = end.reason
    if reason is Reason.NO_ERROR:
        ending = Ending.FINISHED
    elif has_target_failed:
        ending = Ending.RESET_BY_TARGET
    elif end.ended_by is Party.PEER:
        ending = Ending.RESET_BY_APPLICATION
    else:
        ending = Ending.LOST
        reason = cut_off_because if end.ended_by is Party.LOCAL else reason
    kind = "closed" if ending is Ending.FINISHED else "broken"
    return Disconnected(kind, ending, ending, reason, carried.bytes_to_target, carried.bytes_to_client, carried)


def _kind(to_target: Ending, to_client: Ending) -> str:
    if to_target is to_client is Ending.FINISHED:
        return "closed"
    if to_client is Ending.UNCONFIRMED:
        return "unconfirmed"
    reset_by_target = to_target is Ending.FINISHED and to_client is Ending.RESET_BY_TARGET
    reset_by_application = (to_target is Ending.FINISHED and to_client is Ending.STOPPED_BY_APPLICATION) or (
        to_client is Ending.FINISHED and to_target is Ending.RESET_BY_APPLICATION
    )
    return "closed-with-reset" if reset_by_target or reset_by_application else "broken"
