"""Claims: sealed connection strings that a relay keeps until the machines that are to have them take them. Pure.

The rules:

1. The first taker with the proof of an open claim gets its content. The content is deleted in the same transaction
   that records when the claim was taken, and from where. So it is delivered at most once, even if two takers come at
   the same moment, or the relay is killed.
2. A further taker with the right proof is told when the claim was taken, and the relay raises the alarm: one of the
   two should not have had the code.
3. A taker may state a random number, its *attempt*. A taker that states the attempt to which the content was
   delivered is the same one, and did not receive the answer. It gets nothing, but there is no alarm.
4. An unknown claim and a wrong proof have the same answer, so that a guess reveals nothing.
5. A claim that is still open in the last quarter of its time *expires soon*: perhaps its machine was forgotten.
6. What is left of a claim that was taken, was revoked or has expired is kept for `KEPT_SECONDS`.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from collections.abc import Callable, Iterable

import attrs

from .._value import Value
from ..protocol.reasons import Reason
from ..security import MAX_SEALED

__all__ = [
    "KEPT_SECONDS",
    "MAX_CLAIMS_PER_CONNECTION",
    "MAX_LIFETIME_SECONDS",
    "MAX_NOTE",
    "MAX_OPEN_CLAIMS",
    "MAX_OPEN_CLAIMS_PER_CONNECTION",
    "Claim",
    "ClaimState",
    "OpenClaim",
    "Take",
    "allowed_claims",
    "decide_take",
    "to_forget",
]

#: How many claims may be open at a relay, and how many of them for one hybrid connection, so that the administrator
#: of one cannot use up the room of all; see `allowed_claims`.
MAX_OPEN_CLAIMS = 1000
MAX_OPEN_CLAIMS_PER_CONNECTION = 200
#: How many claims are kept for one hybrid connection, with those that have ended. The oldest are forgotten first.
MAX_CLAIMS_PER_CONNECTION = 1000
#: The longest time for which a claim may be open (seconds).
MAX_LIFETIME_SECONDS = 7 * 86_400.0
#: How long an ended claim is kept (seconds).
KEPT_SECONDS = 30 * 86_400.0
#: The maximum length of the administrator's note (characters).
MAX_NOTE = 128

#: Once half of `MAX_OPEN_CLAIMS` are open, one hybrid connection may have this part of the rest: 1 / `_FEW_PART`.
_FEW_PART = 50

_HEX = frozenset("0123456789abcdef")


class ClaimState(enum.StrEnum):
    """The state of a claim."""

    OPEN = "open"
    TAKEN = "taken"
    EXPIRED = "expired"
    REVOKED = "revoked"


_REASONS = {
    ClaimState.TAKEN: Reason.CLAIM_TAKEN,
    ClaimState.EXPIRED: Reason.CLAIM_EXPIRED,
    ClaimState.REVOKED: Reason.CLAIM_REVOKED,
}


def _check_hex(digits: int, *, empty: bool = False) -> Callable[[object, attrs.Attribute[str], str], None]:
    def check(instance: object, attribute: attrs.Attribute[str], value: str) -> None:
        if empty and not value:
            return
        if len(value) != digits or not _HEX.issuperset(value):
            raise ValueError(f"{attribute.name} is not {digits} lower-case hexadecimal digits")

    return check


@attrs.frozen
class Claim(Value):
    """A claim as the relay knows it. The relay cannot open the content. Times are seconds since 1970.

    Raises:
        ValueError: a value is not valid.
    """

    #: The id: 32 hexadecimal digits.
    id: str = attrs.field(validator=_check_hex(32))
    #: The hybrid connection.
    connection: str
    #: The SHA-256 of the proof: 64 hexadecimal digits.
    proof_digest: str = attrs.field(validator=_check_hex(64), repr=False)
    #: The sealed content; None once the claim has ended.
    sealed: bytes | None = attrs.field(repr=False)
    created_at: float
    expires_at: float
    #: A text of the administrator, by which the claim is recognized in lists.
    note: str = attrs.field(default="")
    #: When, and from which address, the content was delivered.
    taken_at: float | None = None
    taken_by: str = ""
    revoked_at: float | None = None
    #: How often somebody with the right proof came after the content had been delivered; when, and from where, last.
    taken_again: int = 0
    taken_again_at: float | None = None
    taken_again_by: str = ""
    #: The SHA-256 of the attempt to which the content was delivered; empty if the taker stated none.
    taken_attempt: str = attrs.field(default="", validator=_check_hex(64, empty=True), repr=False)

    @sealed.validator
    def _check_sealed(self, _attribute: object, value: bytes | None) -> None:
        if value is not None and not 0 < len(value) <= MAX_SEALED:
            raise ValueError(f"the sealed content of a claim has 1 to {MAX_SEALED} bytes")

    @note.validator
    def _check_note(self, _attribute: object, value: str) -> None:
        if len(value) > MAX_NOTE or not value.isprintable():
            raise ValueError(f"a note has at most {MAX_NOTE} printable characters")

    def state(self, now: float) -> ClaimState:
        """Return the state of the claim at a time (seconds since 1970)."""
        if self.taken_at is not None:
            return ClaimState.TAKEN
        if self.revoked_at is not None:
            return ClaimState.REVOKED
        # Without content, it has already expired, by a clock that was ahead.
        return ClaimState.EXPIRED if now >= self.expires_at or self.sealed is None else ClaimState.OPEN

    def revoked(self, now: float) -> Claim:
        """Return what is left of the claim after it was revoked at `now`."""
        return attrs.evolve(self, sealed=None, revoked_at=now)

    def without_content(self) -> Claim:
        """Return what is left of the claim after it has expired."""
        return attrs.evolve(self, sealed=None)

    def ended_at(self, now: float) -> float | None:
        """Return when the claim ended; None if it is open."""
        if self.state(now) is ClaimState.OPEN:
            return None
        return self.taken_at or self.revoked_at or self.expires_at


@attrs.frozen
class OpenClaim(Value):
    """What status, metrics and events tell of an open claim: everything but its content, which may have 16 KiB."""

    #: See `Claim`.
    id: str
    connection: str
    created_at: float
    expires_at: float
    note: str = ""

    def expires_soon(self, now: float) -> bool:
        """Return whether it is still open, and in the last quarter of its time."""
        left = self.expires_at - now
        return 0 < left <= (self.expires_at - self.created_at) / 4


@attrs.frozen
class Take(Value):
    """The decision about an attempt to take a claim."""

    #: `Reason.NO_ERROR` if the content is delivered.
    reason: Reason
    #: The claim as it was before; None if it is unknown, or the proof was wrong.
    claim: Claim | None = None
    #: The claim as it is from now on; None if nothing changes.
    changed: Claim | None = None

    @property
    def sealed(self) -> bytes | None:
        """The content to deliver, or None."""
        return self.claim.sealed if self.claim is not None and self.reason is Reason.NO_ERROR else None


def allowed_claims(open_: int) -> int:
    """Return how many claims one hybrid connection may have open, if this many are open in all, and there is room
    for at least one more.

    The second half of the room is for hybrid connections that have few open claims. So the administrators of 50
    others together cannot use up all of it, even if each opens as many as it can; about 150 can.
    """
    free = MAX_OPEN_CLAIMS - open_
    return MAX_OPEN_CLAIMS_PER_CONNECTION if 2 * free > MAX_OPEN_CLAIMS else max(1, free // _FEW_PART)


def decide_take(
    claim: Claim | None, proof: bytes, taker: str, now: float, *, attempt: bytes = b"", disabled: bool = False
) -> Take:
    """Decide about an attempt to take a claim.

    Args:
        claim: the claim with the id that the taker has named; None if there is none.
        proof: the 32 bytes that the taker has shown.
        taker: the address of the taker.
        now: seconds since 1970.
        attempt: the random number that the taker has stated; empty if none.
        disabled: whether the hybrid connection is disabled. The claim then stays as it is.
    """
    digest = hashlib.sha256(proof).hexdigest()
    if not hmac.compare_digest(digest, "" if claim is None else claim.proof_digest):
        return Take(Reason.CLAIM_UNKNOWN)
    assert claim is not None
    state = claim.state(now)
    attempt_digest = hashlib.sha256(attempt).hexdigest() if attempt else ""
    if state is ClaimState.TAKEN:
        if attempt_digest and hmac.compare_digest(attempt_digest, claim.taken_attempt):
            return Take(Reason.CLAIM_LOST, claim)
        again = attrs.evolve(claim, taken_again=claim.taken_again + 1, taken_again_at=now, taken_again_by=taker)
        return Take(Reason.CLAIM_TAKEN, claim, again)
    if state is not ClaimState.OPEN:
        return Take(_REASONS[state], claim)
    if disabled:
        return Take(Reason.CONNECTION_DISABLED, claim)
    taken = attrs.evolve(claim, sealed=None, taken_at=now, taken_by=taker, taken_attempt=attempt_digest)
    return Take(Reason.NO_ERROR, claim, taken)


def to_forget(claims: Iterable[Claim], now: float) -> list[Claim]:
    """Return the claims of one hybrid connection that are no longer kept: those that ended too long ago, and the
    oldest ended ones beyond `MAX_CLAIMS_PER_CONNECTION`."""
    ended: list[tuple[float, Claim]] = []
    still_open = 0
    for claim in claims:
        at = claim.ended_at(now)
        if at is None:
            still_open += 1
        else:
            ended.append((at, claim))
    ended.sort(key=lambda one: one[0])
    excess = max(0, still_open + len(ended) - MAX_CLAIMS_PER_CONNECTION)
    return [claim for number, (at, claim) in enumerate(ended) if number < excess or now - at > KEPT_SECONDS]
