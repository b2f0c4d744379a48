"""Making the snapshot of a session, for connectors and clients."""

from __future__ import annotations

from ..abc import Purpose
from ..mux import MemoryUse, Session, SessionRole
from ..security import PeerIdentity
from .activity import session_activity_id
from .discovery import Candidate
from .link import RelayLink
from .snapshot import SessionSnapshot, SessionState

__all__ = ["session_snapshot"]


def session_snapshot(
    session: Session,
    memory: MemoryUse,
    *,
    connection: str,
    peer: PeerIdentity,
    serial: str,
    link: RelayLink,
    candidate: Candidate,
    rendezvous: str,
    since: float,
    instance: str = "",
) -> SessionSnapshot:
    """Return a snapshot of a session.

    Args:
        session: the session.
        memory: the memory that it uses.
        connection: the name of its hybrid connection.
        peer: the identity of the other side.
        serial: the serial of the application's identity.
        link: the relay of its data channel.
        candidate: the route of its data channel.
        rendezvous: the id of the rendezvous of its data channel.
        since: when it began (seconds since 1970).
        instance: the instance of the other side, if it is known.
    """
    to_target, to_client = session.bytes_sent, session.bytes_received
    if session.core.role is SessionRole.ACCEPTOR:
        to_target, to_client = to_client, to_target
    return SessionSnapshot(
        id=session_activity_id(session.session_id, serial),
        connection=connection,
        state=_state(session),
        label=peer.label,
        serial=peer.serial,
        instance=instance,
        relay=link.host,
        route=link.describe(candidate, Purpose.DATA),
        rendezvous=rendezvous,
        since=since,
        resumptions=max(0, session.greeting_count - 1),
        streams=session.stream_count,
        bytes_to_target=to_target,
        bytes_to_client=to_client,
        queued=memory.queued,
        unread=memory.unread,
        unacknowledged=memory.unacknowledged,
        reserved=memory.reserved,
        round_trip=session.round_trip,
    )


def _state(session: Session) -> SessionState:
    if not session.accepts_streams:
        return SessionState.ENDING
    return SessionState.OPEN if session.is_attached else SessionState.RESUMING
