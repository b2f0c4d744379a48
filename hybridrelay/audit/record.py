"""Records: the events that belong in the audit log, as values that all sinks understand. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from ..events.base import Event
from ..events.plain_log import event_fields, event_text
from .chain import FieldValue

__all__ = ["AUDITED_SUBJECTS", "NOT_THERE", "NotRecordedError", "Record", "SinkProblem", "record_of"]

#: The first words of the names of all events that are recorded. What strangers can cause at a relay is not among
#: them, because they could fill the disk: ``token`` and ``sender``, for example, are in the log.
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
class Record:
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


#: The problem of a sink that the policy requires, and that does not exist.
NOT_THERE: Final = "the policy requires this sink, and the program does not write to it"


@attrs.frozen
class SinkProblem:
    """A sink that cannot be written at the moment, or a relay that does not confirm that it keeps checkpoints."""

    #: The name of the sink, or ``witness`` and the relay.
    sink: str
    detail: str
    #: Whether new streams are refused in the meantime.
    is_required: bool

    @property
    def text(self) -> str:
        """What is wrong, as a sentence."""
        if self.sink.startswith("witness"):
            return f"the audit log lacks a required {self.sink}: {self.detail}"
        return f"the audit log cannot be written to {self.sink}: {self.detail}"

    @property
    def remedy(self) -> str:
        """What to do about it."""
        if self.sink.startswith("witness"):
            return (
                "check that the relay can be reached and has room for checkpoints, and that the program has an "
                "--audit-dir; or change AuditWitness in the policy"
            )
        return "free disk space, or start the server or service; the program tries again by itself"


def record_of(event: Event, at: float) -> Record | None:
    """Return the record of an event; None if it does not belong in the audit log.

    Args:
        event: the event.
        at: the time, in seconds since 1970.
    """
    if event.name.partition(".")[0] not in AUDITED_SUBJECTS or event.name in _LEFT_OUT:
        return None
    return Record(at, event.name, event_fields(event), int(event.level), event_text(event))
