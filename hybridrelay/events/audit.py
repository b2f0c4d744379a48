"""Events of the audit log itself: where it goes, and whether it can be written."""

from __future__ import annotations

from typing import ClassVar

import attrs

from .base import Event, Level

__all__ = [
    "AuditCheckpoint",
    "AuditFileNotCompressed",
    "AuditFilesOpened",
    "AuditFilesRecovered",
    "AuditRecordsLeftOut",
    "AuditRecordsLost",
    "AuditRecordsUnwritten",
    "AuditSinkFailed",
    "AuditSinkMissing",
    "AuditSinkRemoved",
    "AuditSinkRestored",
    "AuditWitnessFailed",
    "AuditWitnessRestored",
    "CheckpointRefused",
    "CheckpointsDeleted",
]


@attrs.frozen(kw_only=True)
class AuditFilesOpened(Event):
    """The audit directory was opened, or was begun."""

    name: ClassVar = "audit.files-opened"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The audit log is written to tamper-evident files"

    directory: str
    #: The public key of the newest file. The first one of a log is the one to keep for ``audit verify --key``.
    key: str
    #: Whether the log begins now.
    is_new: bool


@attrs.frozen(kw_only=True)
class AuditFilesRecovered(Event):
    """The program had ended abruptly, and its audit files were repaired."""

    name: ClassVar = "audit.files-recovered"
    level: ClassVar = Level.WARNING
    summary: ClassVar = (
        "The audit files were repaired after the program had ended abruptly; no complete record was removed"
    )

    directory: str
    #: The bytes of an incomplete line that were removed.
    removed_bytes: int
    #: The number of the first record that had not been signed; 0 if all had been.
    unsigned_from: int


@attrs.frozen(kw_only=True)
class AuditCheckpoint(Event):
    """A part of the audit files was signed. Other sinks and relays get this, so that they can show later whether the
    end of the files was cut off (``audit verify --witness``).
    """

    name: ClassVar = "audit.checkpoint"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "A part of the audit log was signed"

    directory: str
    #: The id of the log.
    log: str
    #: The number of the last record that is signed, and its hash.
    last: int
    head: str
    #: When it was signed, the public key of the file, and the signature.
    signed_at: str
    key: str
    signature: str


@attrs.frozen(kw_only=True)
class AuditSinkFailed(Event):
    """Records cannot be written to a sink. Published once, until `AuditSinkRestored`."""

    name: ClassVar = "audit.sink-failed"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "The audit log cannot be written to one of its sinks"

    sink: str
    detail: str
    remedy: str = ""
    #: Whether the sink is required. The connector then refuses new streams.
    required: bool


@attrs.frozen(kw_only=True)
class AuditSinkRemoved(Event):
    """The program does not write its audit log to a sink any more, because its configuration was changed. This is
    the last record in the sink, except what closes it."""

    name: ClassVar = "audit.sink-removed"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The configuration was changed, and the audit log is no longer written to this sink"

    sink: str


@attrs.frozen(kw_only=True)
class AuditSinkMissing(Event):
    """The policy requires an audit log in a sink that this connector does not have, so it refuses every stream.
    Published at the start, and when this begins."""

    name: ClassVar = "audit.sink-missing"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "Every stream is refused, because the policy requires an audit log that does not exist"

    sink: str
    detail: str
    remedy: str


@attrs.frozen(kw_only=True)
class AuditSinkRestored(Event):
    """Records can be written to a sink again. Those that were waiting have been written."""

    name: ClassVar = "audit.sink-restored"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The audit log can be written to this sink again"

    sink: str
    #: How many records are missing there, because too many were waiting.
    records_lost: int


@attrs.frozen(kw_only=True)
class AuditWitnessFailed(Event):
    """A relay that the policy requires as a witness (``AuditWitness``) has not confirmed that it keeps checkpoints of
    the audit log. The connector refuses new streams. Published once, until `AuditWitnessRestored`.
    """

    name: ClassVar = "audit.witness-failed"
    level: ClassVar = Level.ERROR
    summary: ClassVar = (
        "A required witness has not confirmed a checkpoint of the audit log, so new streams are refused"
    )

    #: ``witness`` and the relay's host name; ``witness`` alone if there is no such relay, or there are no
    #: checkpoints.
    witness: str
    detail: str


@attrs.frozen(kw_only=True)
class AuditWitnessRestored(Event):
    """The required witness has confirmed the checkpoints, or is no longer required."""

    name: ClassVar = "audit.witness-restored"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A required witness of the audit log has confirmed again"

    witness: str


@attrs.frozen(kw_only=True)
class AuditRecordsLost(Event):
    """A record that is written only to the sink itself, in place of records that are missing there."""

    name: ClassVar = "audit.records-lost"
    level: ClassVar = Level.ERROR
    summary: ClassVar = (
        "Records of the audit log are missing from this sink at this point, because it could not be written for too "
        "long"
    )

    sink: str
    records: int


@attrs.frozen(kw_only=True)
class AuditRecordsUnwritten(Event):
    """The program ends, or a sink was removed from its configuration, while the sink cannot be written. The records
    that were kept for it are lost."""

    name: ClassVar = "audit.records-unwritten"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "Records of the audit log were not written to this sink before it was closed, and are lost"

    sink: str
    records: int


@attrs.frozen(kw_only=True)
class AuditRecordsLeftOut(Event):
    """At a relay, the peers of a hybrid connection have caused more records than the audit log takes from them.

    Published at most once a minute for each hybrid connection.
    """

    name: ClassVar = "audit.records-left-out"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "Peers of a hybrid connection have caused too many records, and some were left out"

    #: Empty for records that name no hybrid connection.
    connection: str
    #: How many were left out since the last such event, in all sinks.
    records: int


@attrs.frozen(kw_only=True)
class CheckpointRefused(Event):
    """A connector or client wanted the relay to keep a checkpoint of its audit log, and a limit is reached.

    Checkpoints that are kept already are not affected. ``hybridrelay audit checkpoints`` shows them, and can delete
    those of a log.
    """

    name: ClassVar = "checkpoint.refused"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A checkpoint of an audit log was refused"

    connection: str
    #: The address of the peer, and its instance.
    peer: str
    instance: str
    detail: str


@attrs.frozen(kw_only=True)
class CheckpointsDeleted(Event):
    """An administrator has deleted the checkpoints of an audit log that the relay kept as a witness."""

    name: ClassVar = "checkpoint.deleted"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "Checkpoints of an audit log were deleted"

    connection: str
    #: The id of the audit log, and how many were deleted.
    log: str
    checkpoints: int


@attrs.frozen(kw_only=True)
class AuditFileNotCompressed(Event):
    """A file of the audit log that has ended cannot be compressed. It stays as it is, and this is tried again."""

    name: ClassVar = "audit.file-not-compressed"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A file of the audit log cannot be compressed"

    directory: str
    detail: str
