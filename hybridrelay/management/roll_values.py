"""The JSON values of the operations that roll keys. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from ..relay.model import KeyRoll
from ..security.rules import MAX_KEY
from .values import Body, Value

if TYPE_CHECKING:  # commands read these values, and only the relay makes them
    from ..relay.snapshot import EndedRollSnapshot, ProgramSnapshot, RollSnapshot

__all__ = ["MAX_GRACE_SECONDS", "ProgramValue", "RollBody", "RollValue"]

MAX_GRACE_SECONDS = 30 * 86_400


class RollBody(Body, frozen=True):
    """How to roll a key."""

    #: The slot for the new key. The old key is in the other slot.
    slot: Literal["primary", "secondary"]
    #: The generation of the key that is in this slot now; 0 if the slot is empty. A key in use cannot be replaced.
    generation: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
    #: After this time, the old key is revoked even if not all programs have the new one.
    grace_seconds: Annotated[int, msgspec.Meta(ge=10, le=MAX_GRACE_SECONDS)]
    #: The new key. By default, the relay generates one.
    key: Annotated[str, msgspec.Meta(pattern=r"^[!-:<-~]+$", max_length=MAX_KEY)] | None = None
    #: Whether the old key stays valid for this time even if all programs that are connected have the new one.
    wait_for_grace: bool = False


class ProgramValue(Value, frozen=True):
    """A program that has not stored the new key."""

    instance: str
    #: The network address, or for IPv6 the /64.
    address: str
    #: ``connector`` or ``client``.
    role: str
    #: ``asked`` (it has not answered), ``memory`` (it uses the key, but would not after a restart) or ``waiting``
    #: (another of its relays does not accept the key).
    state: str
    detail: str
    is_connected: bool


class RollValue(Value, frozen=True):
    """The roll of a rule's key. Times are seconds since 1970.

    After its end, it is shown until all programs that the relay has seen have stored the new key; until that key is
    changed, revoked or rolled; or for 30 days at most.
    """

    #: The slot of the new key.
    slot: str
    started_at: float
    #: When the old key is revoked at the latest.
    ends_at: float
    wait_for_grace: bool
    #: How many programs this relay has seen during the roll, and how many of them have stored the new key.
    programs: int
    kept: int
    #: Some of those that have not.
    missing: tuple[ProgramValue, ...]
    #: Since when the relay has noted this: since the roll began, or if the relay was started during the roll and
    #: cannot read what it had noted before, since that start. Programs that have not connected since then are not
    #: counted.
    seen_since: float | None = None
    #: When the old key was revoked; null while the roll is in progress. Programs in `missing` fail after a restart,
    #: unless somebody has written the new key where their connection strings come from.
    ended_at: float | None = None
    #: Whether there was no room for other programs. They get the new key, but are not counted, and the old key is
    #: revoked at ``ends_at``.
    is_crowded: bool = False

    @classmethod
    def of_ended(cls, ended: EndedRollSnapshot) -> RollValue:
        """Make the value of a roll that is over."""
        return cls(
            slot=ended.roll.slot.value,
            started_at=ended.roll.started_at,
            ends_at=ended.roll.ends_at,
            wait_for_grace=ended.roll.waits,
            programs=ended.seen,
            kept=ended.kept,
            missing=_programs(ended.missing),
            seen_since=ended.seen_since,
            ended_at=ended.ended_at,
            is_crowded=ended.is_crowded,
        )

    @classmethod
    def of(cls, roll: KeyRoll, live: RollSnapshot, relay_started_at: float) -> RollValue:
        """Make the value from a roll, and from what the relay has learned about programs since it was started."""
        return cls(
            slot=roll.slot.value,
            started_at=roll.started_at,
            ends_at=roll.ends_at,
            wait_for_grace=roll.waits,
            programs=live.programs,
            kept=live.kept,
            missing=_programs(live.missing),
            seen_since=max(roll.started_at, relay_started_at) if live.has_forgotten else roll.started_at,
            is_crowded=live.is_crowded,
        )


def _programs(missing: Sequence[ProgramSnapshot]) -> tuple[ProgramValue, ...]:
    return msgspec.convert(missing, tuple[ProgramValue, ...], from_attributes=True)
