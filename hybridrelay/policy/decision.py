"""Decides whether a subject may do something with a resource. Pure.

The subject is the identity that an application has proved on its data channel. What the application states about
itself has no effect.
"""

from __future__ import annotations

import enum
import unicodedata

import attrs

from ..protocol.reasons import Reason
from ..security import HostPort, PeerIdentity

__all__ = ["Action", "Decision", "Policy", "Resource"]


class Action(enum.Enum):
    """What an application requests."""

    #: Begin a session, or resume one over another data channel.
    OPEN_SESSION = "open-session"
    #: Open a stream, so that the connector connects to the target.
    OPEN_STREAM = "open-stream"


@attrs.frozen
class Resource:
    """The hybrid connection to which a request applies."""

    #: The name of the hybrid connection.
    connection: str
    #: The address of the target.
    target: HostPort


@attrs.frozen
class Decision:
    """Whether a request is allowed, and if not, which rule denies it."""

    #: Why the request is not allowed; None if it is.
    reason: Reason | None = None
    #: The rule that denies the request, as text for administrators; empty if it is allowed.
    rule: str = ""
    #: The kind of that rule: ``deny-list-label`` or ``deny-list-serial``.
    kind: str = ""


ALLOWED = Decision()


@attrs.frozen
class Policy:
    """The rules that are in force: a deny list."""

    #: Labels and serials (upper case hexadecimal) of identities that are denied.
    denied: frozenset[str] = frozenset()

    def decide(self, subject: PeerIdentity, action: Action, resource: Resource) -> Decision:
        """Decide about one request. The same arguments always give the same decision.

        Args:
            subject: the identity that the application has proved.
            action: what it requests; the deny list applies to every action.
            resource: the hybrid connection and target; the deny list applies to all of them.
        """
        names = {
            subject.label: "label",
            unicodedata.normalize("NFC", subject.label): "label",
            subject.serial.upper(): "serial",
        }
        for name, kind in names.items():
            if name in self.denied:
                return Decision(Reason.IDENTITY_DENIED, f"deny list: {kind} {name}", f"deny-list-{kind}")
        return ALLOWED
