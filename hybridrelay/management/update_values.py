"""The JSON values of the operations on updates of connection strings. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from ..relay.updates import MAX_UPDATE_NOTE, StoredUpdate
from ..security import MAX_SEQUENCE, MAX_UPDATE
from .values import Body, Value

if TYPE_CHECKING:  # commands read these values, and only the relay makes them
    from ..relay.snapshot import UpdateSnapshot

__all__ = ["NewUpdate", "RecipientValue", "UpdatePage", "UpdateValue"]

#: Base64 with padding.
_BASE64 = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$"


class NewUpdate(Body, frozen=True):
    """An update, which the caller has signed and encrypted."""

    role: Literal["connector", "application"]
    #: The sequence of the update.
    sequence: Annotated[int, msgspec.Meta(ge=1, le=MAX_SEQUENCE)]
    #: The document, in Base64.
    document: Annotated[str, msgspec.Meta(min_length=4, max_length=MAX_UPDATE // 3 * 4, pattern=_BASE64)]
    #: When the relay stops giving it to programs (seconds since 1970).
    expires_at: Annotated[float, msgspec.Meta(ge=0, le=MAX_SEQUENCE)]
    #: The serial number of the only identity that it is for. By default, it is for all of its side.
    serial: Annotated[str, msgspec.Meta(pattern=r"^([0-9A-F]{1,40})?$")] = ""
    #: What it changes, for people.
    note: Annotated[str, msgspec.Meta(max_length=MAX_UPDATE_NOTE)] = ""


class RecipientValue(Value, frozen=True):
    """A program that does not have an update."""

    instance: str
    #: The network address, or for IPv6 the /64.
    address: str
    #: ``connector`` or ``client``.
    role: str
    #: ``asked`` (it has not answered), ``memory`` (it uses the update, but would have to get it again after a
    #: restart), ``waiting`` (it does not use the update yet) or ``refused``; ``detail`` says why.
    state: str
    detail: str
    #: When it disconnected (seconds since 1970); null if it is connected.
    departed_at: float | None


class UpdateValue(Value, frozen=True):
    """An update, without its document, which the relay cannot read. Times are seconds since 1970."""

    role: str
    #: The serial number of the only identity that it is for; empty if it is for all of its side.
    serial: str
    sequence: int
    note: str
    created_at: float
    expires_at: float
    #: How many of its recipients this relay has seen, and how many of these have it.
    recipients: int
    kept: int
    #: Some of those that do not have it.
    missing: tuple[RecipientValue, ...]
    #: Since when the relay has noted this: since the update was pushed, or since the relay was started. Programs that
    #: have not connected since then are not counted.
    seen_since: float | None = None
    #: Whether there was no room for other programs. They get the update, but are not counted.
    is_crowded: bool = False

    @classmethod
    def of(cls, update: StoredUpdate, live: UpdateSnapshot | None, started_at: float) -> UpdateValue:
        """Make the value from an update of a store, and from what the relay has learned about programs since it was
        started."""
        missing = () if live is None else live.missing
        return cls(
            role=update.role.value,
            serial=update.serial,
            sequence=update.sequence,
            note=update.note,
            created_at=update.created_at,
            expires_at=update.expires_at,
            recipients=0 if live is None else live.recipients,
            kept=0 if live is None else live.kept,
            missing=msgspec.convert(missing, tuple[RecipientValue, ...], from_attributes=True),
            seen_since=max(update.created_at, started_at),
            is_crowded=live is not None and live.is_crowded,
        )


class UpdatePage(Value, frozen=True):
    """The updates of a hybrid connection: the latest for each group of recipients."""

    value: tuple[UpdateValue, ...]
