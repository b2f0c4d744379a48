"""The JSON values of the operations on claims. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ..relay.claims import MAX_LIFETIME_SECONDS, MAX_NOTE, Claim
from ..security import MAX_SEALED
from .values import Body, Value

__all__ = ["ClaimPage", "ClaimValue", "NewClaim"]

#: Base64 with padding.
_BASE64 = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$"
_MAX_BASE64 = MAX_SEALED // 3 * 4


class NewClaim(Body, frozen=True):
    """A claim, whose content was sealed by the caller."""

    #: The id that is derived from the secret of the code.
    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]
    #: The SHA-256 of the proof that is derived from the secret of the code.
    proof_digest: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    #: The sealed content, in Base64.
    sealed: Annotated[str, msgspec.Meta(min_length=4, max_length=_MAX_BASE64, pattern=_BASE64)]
    #: For how long the claim can be taken.
    expires_in_seconds: Annotated[int, msgspec.Meta(ge=60, le=int(MAX_LIFETIME_SECONDS))]
    #: A text by which people recognize the claim.
    note: Annotated[str, msgspec.Meta(max_length=MAX_NOTE)] = ""


class ClaimValue(Value, frozen=True):
    """A claim, without its content. Times are seconds since 1970."""

    id: str
    #: ``open``, ``taken``, ``expired`` or ``revoked``.
    state: str
    note: str
    created_at: float
    expires_at: float
    #: When it was taken, and from which address; null and empty if it was not.
    taken_at: float | None
    taken_by: str
    revoked_at: float | None
    #: How often it was asked for with the right code after it had been taken; when, and from where, last.
    taken_again: int
    taken_again_at: float | None
    taken_again_by: str

    @classmethod
    def of(cls, claim: Claim, now: float) -> ClaimValue:
        """Make the value for a claim of a store."""
        return cls(
            id=claim.id,
            state=claim.state(now).value,
            note=claim.note,
            created_at=claim.created_at,
            expires_at=claim.expires_at,
            taken_at=claim.taken_at,
            taken_by=claim.taken_by,
            revoked_at=claim.revoked_at,
            taken_again=claim.taken_again,
            taken_again_at=claim.taken_again_at,
            taken_again_by=claim.taken_again_by,
        )


class ClaimPage(Value, frozen=True):
    """All claims of a hybrid connection that the relay keeps, the latest first."""

    value: tuple[ClaimValue, ...]
