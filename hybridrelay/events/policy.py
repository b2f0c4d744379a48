"""Events of the policy and of deny lists: what is in force, and what it refuses."""

from __future__ import annotations

from typing import ClassVar

import attrs

from ..protocol.reasons import Reason
from .base import Event, Level

__all__ = [
    "ConnectionAllowed",
    "ConnectionDenied",
    "DatagramsDenied",
    "DenyListAmbiguous",
    "DenyListLoaded",
    "PolicyInForce",
    "PolicyNotReloaded",
    "PolicyRefused",
]


@attrs.frozen(kw_only=True)
class DenyListLoaded(Event):
    """The deny list was read: at the start, because the file has changed, or because of SIGHUP.

    `denied` and `no_longer_denied` list what has changed since it was last read. Each lists at most 20 entries; if
    there are more, a further element says how many were omitted.
    """

    name: ClassVar = "deny-list.loaded"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The deny list was read"

    file: str
    #: How many entries the deny list has.
    entries: int
    #: Labels, and serials as ``serial 3F...``.
    denied: tuple[str, ...] = ()
    no_longer_denied: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class PolicyInForce(Event):
    """The policy of the machine and of further directories was read: at the start, because it has changed, or because
    of SIGHUP.

    `added` and `removed` list what has changed since it was last read: key, value and place. Each lists at most 20
    rules; if there are more, a further element says how many were omitted.
    """

    name: ClassVar = "policy.in-force"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The policy was read, and is in force"

    #: How many files, or other sources, it comes from, and how many rules they have.
    files: int
    rules: int
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class DenyListAmbiguous(Event):
    """A line of the deny list is ambiguous. Identities that match any of its meanings are denied."""

    name: ClassVar = "deny-list.ambiguous"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A line of the deny list may not mean what was intended"

    file: str
    detail: str


@attrs.frozen(kw_only=True)
class PolicyNotReloaded(Event):
    """The file of the policy cannot be read, or is not valid."""

    name: ClassVar = "policy.not-reloaded"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "The policy cannot be read; the last valid one stays in force"

    detail: str
    remedy: str = ""


@attrs.frozen(kw_only=True)
class PolicyRefused(Event):
    """The policy has refused a session or a stream of an application, or has ended one that was open."""

    name: ClassVar = "policy.refused"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "An application was refused by the policy"

    connection: str
    label: str
    serial: str
    reason: Reason
    #: The rule, with file and line.
    detail: str = ""
    #: The kind of the rule: ``deny-list-label``, ``deny-list-serial``, or a key of the policy: ``denied-targets``.
    rule: str = ""
    #: The id of the session or stream, if it already has one.
    activity_id: str = ""


@attrs.frozen(kw_only=True)
class ConnectionDenied(Event):
    """The policy denies a hybrid connection as a whole. A connector does not register it then, and a client
    opens no sessions."""

    name: ClassVar = "policy.connection-denied"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "The policy does not allow a hybrid connection, so it is not used"

    connection: str
    #: The rule, with file and line.
    detail: str
    rule: str


@attrs.frozen(kw_only=True)
class DatagramsDenied(Event):
    """The target of a hybrid connection is written with ``/udp`` or ``/tcp+udp``, but the policy allows no datagrams.
    The connector refuses them. Streams are not affected."""

    name: ClassVar = "policy.datagrams-denied"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The policy does not allow datagrams (UDP), so the connector refuses them"

    connection: str
    target: str
    #: The rule, with file and line if there is one.
    detail: str
    remedy: str


@attrs.frozen(kw_only=True)
class ConnectionAllowed(Event):
    """The policy allows a hybrid connection again that it has denied."""

    name: ClassVar = "policy.connection-allowed"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The policy allows a hybrid connection again, so it is used"

    connection: str
