"""Delivers the contents of claims to those who show the proof, deletes what has expired, and reports what expires
soon."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from ..._confirmed_time import ConfirmedTime
from ..._threads import run_in_thread
from ...errors import StateError
from ...events.claims import ClaimExpiresSoon, ClaimRefused, ClaimTaken, ClaimTakenAgain, ClaimUnknown
from ...events.stream import EventStream
from ...protocol import control
from ...protocol.control import CLAIM_PART_SIZE
from ...protocol.reasons import Reason
from ..claims import OpenClaim, Take
from ..store.store import Store

__all__ = ["ClaimService", "Claims", "NoClaims"]

#: How often expired claims are looked for (seconds).
_SWEEP_SECONDS = 60.0


class Claims(Protocol):
    """What a control channel needs to answer a taker."""

    async def take(self, request: control.Take, peer: str) -> list[control.Taken] | list[control.Failed]:
        """Take a claim for a peer.

        Args:
            request: the id and the proof.
            peer: the address of the peer.

        Returns:
            The messages to send to it: the parts of the content, or one refusal.
        """


class NoClaims:
    """A relay without claims."""

    async def take(self, request: control.Take, peer: str) -> list[control.Taken] | list[control.Failed]:
        """See `Claims.take`."""
        return [control.Failed(request.id, Reason.CLAIM_UNKNOWN)]


class ClaimService:
    """Implements `Claims` with a store. Nothing else may use this `Store`, except with the same limiter.

    Args:
        store: the store.
        limiter: allows one thread at a time to use the store.
        events: the stream to which events are published.
        clock: returns seconds since 1970.
    """

    def __init__(
        self, store: Store, limiter: trio.CapacityLimiter, events: EventStream, *, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._clock = clock
        self._events = events
        self._limiter = limiter
        #: The ids of the open claims about which `ClaimExpiresSoon` was published.
        self._reported: frozenset[str] = frozenset()

    async def take(self, request: control.Take, peer: str) -> list[control.Taken] | list[control.Failed]:
        """See `Claims.take`.

        The change is stored before this returns the content. If the taker does not receive the content, the content
        is lost: the administrator then creates another claim. If the call is cancelled, it first waits for the store.
        """
        proof, attempt = bytes.fromhex(request.proof), bytes.fromhex(request.attempt)
        try:
            take = await run_in_thread(
                self._store.take_claim, request.claim, proof, peer, attempt, limiter=self._limiter
            )
        except StateError:  # the watcher of the registry has already published this
            return [control.Failed(request.id, Reason.BUSY, "the relay cannot use its registry now; nothing changed")]
        self._publish(take, peer)
        if take.sealed is None:
            return [control.Failed(request.id, take.reason, _detail(take))]
        content = take.sealed.hex()
        parts = [
            content[begin : begin + 2 * CLAIM_PART_SIZE] for begin in range(0, len(content), 2 * CLAIM_PART_SIZE)
        ]
        return [control.Taken(request.id, number, len(parts), part) for number, part in enumerate(parts)]

    def _publish(self, take: Take, peer: str) -> None:
        claim = take.claim
        if claim is None:
            self._events.publish(ClaimUnknown(peer=peer))
            return
        connection, id_ = claim.connection, claim.id
        if take.reason is Reason.NO_ERROR:
            self._events.publish(ClaimTaken(connection=connection, claim=id_, peer=peer))
        elif take.reason is Reason.CLAIM_TAKEN and not claim.taken_again:
            self._events.publish(
                ClaimTakenAgain(
                    connection=connection,
                    claim=id_,
                    peer=peer,
                    taken_at=claim.taken_at or 0.0,
                    taken_by=claim.taken_by,
                )
            )
        else:
            self._events.publish(ClaimRefused(connection=connection, claim=id_, peer=peer, reason=take.reason))

    async def run(self) -> None:
        """Call `sweep` every minute, until cancelled."""
        time = ConfirmedTime(self._clock(), trio.current_time())
        while True:
            time.read(self._clock(), trio.current_time())
            with contextlib.suppress(StateError):  # claims that have expired are not delivered in the meantime
                await self.sweep(time.latest)
            await trio.sleep(_SWEEP_SECONDS)

    async def sweep(self, now: float) -> None:
        """Delete the contents of claims that have expired, and report those that expire soon.

        Args:
            now: what has expired before this is deleted (seconds since 1970; `ConfirmedTime.latest`).

        Raises:
            StateError: the registry cannot be used now.
        """
        await run_in_thread(self._store.sweep_claims, now, limiter=self._limiter)
        self._report(await run_in_thread(self._store.open_claims, limiter=self._limiter))

    def _report(self, claims: Sequence[OpenClaim]) -> None:
        now = self._clock()
        ending = [claim for claim in claims if claim.expires_soon(now)]
        for claim in ending:
            if claim.id not in self._reported:
                self._events.publish(
                    ClaimExpiresSoon(
                        connection=claim.connection,
                        claim=claim.id,
                        note=claim.note,
                        expires_at=claim.expires_at,
                    )
                )
        self._reported = frozenset(claim.id for claim in ending)


def _detail(take: Take) -> str:
    """Return what a taker is told besides the reason. Only those with the right proof get here with a claim."""
    if take.claim is None or take.claim.taken_at is None:
        return ""
    at = dt.datetime.fromtimestamp(int(take.claim.taken_at), dt.UTC)
    return f"at {at:%Y-%m-%dT%H:%M:%SZ}"
