"""Records: the events that belong in the audit log, as values that all sinks understand. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from .._value import Value
from ..events.base import Event
from ..events.plain_log import event_fields, event_text
from .chain import FieldValue

__all__ = ["ADD_SINK", "AUDITED_SUBJECTS", "NotRecordedError", "Record", "SinkProblem", "record_of"]

#: The first words of the names of all events that are recorded. Events that strangers can cause at a relay, such as
#: ``token``, are only in the program's log, because strangers could fill the disk.
AUDITED_SUBJECTS: Final = frozenset(
    {
        # connector and client
        "stream",
        "session",
        "registration",
        "instance",
        "policy",
        "deny-list",
        "identity",
        "claim",
        "configuration",
        "connection-string",
        "options",
        "restart",
        "reload",
        "update",
        # relay
        "listener",
        "rendezvous",
        "checkpoint",
        "drain",
        "management",
        "certificate",
        "port",
        # all
        "key",
        "connection",
        "program",
        "audit",
    }
)
#: Events of these subjects that are not recorded, because they repeat what another record says, or because strangers
#: can cause them (``claim.refused``: anybody with a code that was used).
_LEFT_OUT = frozenset(
    {
        "checkpoint.refused",
        "claim.refused",
        "claim.unknown",
        "management.authentication-failed",
        "management.call-refused",
        "session.not-resumed-yet",
        "update.answered",
    }
)


@attrs.frozen
class Record(Value):
    """One event, for the audit log."""

    #: Seconds since 1970.
    at: float
    #: The event's name.
    event: str
    fields: Mapping[str, FieldValue] = attrs.field(factory=dict)
    #: The event's severity, as in the standard library's `logging`.
    level: int = 20
    #: One line for people, with all fields.
    text: str = ""


class NotRecordedError(Exception):
    """A record could not be written to a sink. The text says why."""


#: What to do if there is no sink of a required kind.
ADD_SINK: Final = "add --audit-dir for file, --audit-to for the others; syslog over UDP does not count"
_WRITE: Final = "free disk space, or start the server or service; the program tries again by itself"
_CONFIRM: Final = (
    "check that the relay can be reached and has room for checkpoints, and that the program has an --audit-dir; or "
    "change AuditWitness in the policy"
)


@attrs.frozen
class SinkProblem(Value):
    """What is wrong with an audit log. There are three kinds: a sink cannot be written at the moment; a required sink
    does not exist (`missing`); or a required relay has not confirmed that it keeps checkpoints (`not_confirmed`)."""

    #: The name of the sink; ``sink`` and its kind if it does not exist; or ``witness`` and the relay.
    sink: str
    detail: str
    #: Whether new streams are refused in the meantime.
    is_required: bool
    #: What to do about it.
    remedy: str = _WRITE
    #: Whether something that is required is missing, instead of a sink that cannot be written.
    is_missing: bool = False

    @classmethod
    def missing(cls, kind: str) -> SinkProblem:
        """Return the problem of a sink that the policy requires and that does not exist."""
        remedy = f"{ADD_SINK}; or change RequireAudit in the policy"
        detail = "the policy (RequireAudit) requires it, but this program does not write to it"
        return cls(f"sink {kind}", detail, is_required=True, remedy=remedy, is_missing=True)

    @classmethod
    def not_confirmed(cls, witness: str, detail: str) -> SinkProblem:
        """Return the problem of a required witness.

        Args:
            witness: ``witness`` and the relay; or only ``witness`` if no relay can be one.
            detail: why it does not count as a witness.
        """
        return cls(witness, detail, is_required=True, remedy=_CONFIRM, is_missing=True)

    @property
    def text(self) -> str:
        """What is wrong, as a sentence."""
        what = "lacks the required" if self.is_missing else "cannot be written to"
        return f"the audit log {what} {self.sink}: {self.detail}"


def record_of(event: Event, at: float) -> Record | None:
    """Return the record of an event; None if it does not belong in the audit log.

    Args:
        event: the event.
        at: the time, in seconds since 1970.
    """
    if event.name.partition(".")[0] not in AUDITED_SUBJECTS or event.name in _LEFT_OUT:
        return None
    return Record(at, event.name, event_fields(event), int(event.level), event_text(event))
