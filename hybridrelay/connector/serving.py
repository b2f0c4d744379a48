"""One stream of an application: policy, target, bytes, and its lines in the audit log."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import attrs
import trio

from .._log_limit import LimitedLogger
from ..mux import BridgeProgress, Offer, bridge
from ..protocol.reasons import Reason
from ..security import PeerIdentity
from .audit import AuditEntry, AuditLog
from .policy import Action, Policy, Resource
from .published import Published
from .shares import Shares
from .targets import TargetError, open_target

logger = LimitedLogger("hybridrelay.connector")


@attrs.frozen
class Origin:
    """Where a stream comes from."""

    published: Published
    peer: PeerIdentity
    #: Tells the sessions of this process apart in the audit log.
    session: int
    #: The current route of the session's data channel: ``tcp at relay.example.com``.
    route: str


async def serve_stream(
    offer: Offer, origin: Origin, policy: Callable[[], Policy], shares: Shares, audit: AuditLog
) -> None:
    """Serve a stream that an application asks for, to its end. Nothing that happens to it affects any other stream.

    Args:
        offer: the stream.
        origin: whose it is.
        policy: the one in force now.
        shares: how many connections to targets each application may have.
        audit: gets a line at the beginning and exactly one at the end.
    """
    address = origin.published.target  # a reload may change it at any moment
    entry = audit.begin(origin.published.name, origin.peer, address)
    try:
        entry.opened(session=origin.session, stream=offer.stream_id, route=origin.route)
        decision = policy().decide(origin.peer, Action.OPEN_STREAM, Resource(origin.published.name, address))
        if (reason := decision.reason) is not None:
            offer.refuse(reason)
            entry.refused(reason)
        else:
            await _serve_within_share(offer, origin, shares, entry)
    except Exception:
        # A bug of ours. It must not end the connector for all others, and it has to be logged.
        logger.exception("%s: a stream failed unexpectedly", origin.published.name)
        offer.refuse(Reason.INTERNAL_ERROR)
        entry.refused(Reason.INTERNAL_ERROR)


async def _serve_within_share(offer: Offer, origin: Origin, shares: Shares, entry: AuditEntry) -> None:
    published, peer = origin.published, origin.peer
    owner = (published, peer.serial)
    with contextlib.ExitStack() as taken:
        for share in (shares.descriptors, shares.ports(entry.target)):
            if not share.take(owner):
                why = share.why_refused(owner)
                offer.refuse(Reason.LIMIT, why)
                entry.refused(Reason.LIMIT, detail=why)
                logger.warning(
                    "%s: refused %s (%s): %s; %s", published.name, peer.label, peer.serial, why, share.remedy
                )
                return
            taken.callback(share.give_back, owner)
        if (target := await _open(offer, entry)) is not None:
            await _join(offer, target, entry)


async def _open(offer: Offer, entry: AuditEntry) -> trio.SocketStream | None:
    """Connect to the target. None if that failed, which has then been reported to the opener and to the audit log.
    The attempt ends when the opener gives up, because nobody waits for the answer any more.
    """
    target: trio.SocketStream | None = None
    try:
        with trio.CancelScope() as scope:
            offer.cancel_when_withdrawn(scope)
            target = await open_target(entry.target)
    except TargetError as exc:
        offer.refuse(exc.reason, str(exc))
        entry.refused(exc.reason, detail=str(exc.__cause__ or exc))
        if exc.remedy is not None:
            logger.warning("%s: %s; %s", entry.connection, exc, exc.remedy)
    except trio.Cancelled:
        # GOING_AWAY means that the stream was not processed, and that another session may open it.
        offer.refuse(Reason.GOING_AWAY)
        entry.refused(Reason.GOING_AWAY)
        raise
    else:
        if target is None:
            entry.refused(Reason.CANCELLED)
    return target


async def _join(offer: Offer, target: trio.SocketStream, entry: AuditEntry) -> None:
    progress = BridgeProgress()
    entry.progress = progress.so_far
    try:
        await bridge(offer.accept(), target, progress=progress)
    finally:
        entry.ended(progress.so_far())
