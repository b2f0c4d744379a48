"""Updates: documents with which the authority of a hybrid connection changes connection strings. Pure.

A relay keeps the latest document for each group of recipients, and gives it to them. It cannot read a document
(`hybridrelay.security.update_document`), and knows about it only what the administrator has stated.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attrs

from .._value import Value
from ..security import MAX_SEQUENCE, MAX_UPDATE, Role, check_connection_name

__all__ = [
    "MAX_RECIPIENTS",
    "MAX_RECIPIENTS_OF_RELAY",
    "MAX_UPDATES_PER_CONNECTION",
    "MAX_UPDATE_NOTE",
    "StoredUpdate",
]

#: How many documents a relay keeps for one hybrid connection: one for each side, and some for single identities.
MAX_UPDATES_PER_CONNECTION = 18
#: How many programs are remembered for all updates of one hybrid connection, and of a relay (`core.room`). Others are
#: given the update, but are not listed.
MAX_RECIPIENTS = 10_000
MAX_RECIPIENTS_OF_RELAY = 50_000
#: The maximum length of the administrator's note (characters).
MAX_UPDATE_NOTE = 128

_SERIAL = re.compile(r"([0-9A-F]{1,40})?", re.ASCII)
_SIDES = (Role.CONNECTOR, Role.APPLICATION)


def _between(least: int, most: int) -> Callable[[object, attrs.Attribute[Any], float], None]:
    def check(instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
        if not least <= value <= most:
            raise ValueError(f"{attribute.name} is out of range")

    return check


@attrs.frozen
class StoredUpdate(Value):
    """A document, and what the relay knows about it. Times are seconds since 1970.

    Raises:
        ValueError: a value is not valid.
    """

    connection: str = attrs.field(validator=lambda _instance, _attribute, value: check_connection_name(value))
    #: The side of the recipients, and the serial number of a single one; empty for all of this side.
    role: Role = attrs.field(converter=Role, validator=attrs.validators.in_(_SIDES))
    serial: str = attrs.field(validator=attrs.validators.matches_re(_SERIAL))
    sequence: int = attrs.field(validator=_between(1, MAX_SEQUENCE))
    document: bytes = attrs.field(repr=False)
    created_at: float
    #: When the relay stops giving it to programs.
    expires_at: float = attrs.field(validator=_between(0, MAX_SEQUENCE))
    #: A text of the administrator that says what it changes. Anyone who may read the hybrid connection sees it.
    note: str = attrs.field(default="")

    @document.validator
    def _check_document(self, _attribute: object, value: bytes) -> None:
        if not 0 < len(value) <= MAX_UPDATE:
            raise ValueError(f"an update has 1 to {MAX_UPDATE} bytes")

    @note.validator
    def _check_note(self, _attribute: object, value: str) -> None:
        if len(value) > MAX_UPDATE_NOTE or not value.isprintable():
            raise ValueError(f"a note has at most {MAX_UPDATE_NOTE} printable characters")

    @property
    def recipients(self) -> tuple[str, Role, str]:
        """What identifies the group of recipients. There is one document for each."""
        return self.connection, self.role, self.serial
