"""The decision: whether a subject may do something with a resource. Pure.

The subject is the identity that an application has proved on its data channel. Nothing that it states itself counts.
"""

from __future__ import annotations

import enum
import unicodedata

import attrs

from ...protocol.reasons import Reason
from ...security import HostPort, PeerIdentity

__all__ = ["Action", "Decision", "Policy", "Resource"]


class Action(enum.Enum):
    """What an application asks for."""

    #: Begin a session, or resume one over another data channel.
    OPEN_SESSION = "open-session"
    #: Be connected to the target.
    OPEN_STREAM = "open-stream"


@attrs.frozen
class Resource:
    """What an application asks for it of."""

    #: The name of the hybrid connection.
    connection: str
    #: Where the connector would connect to.
    target: HostPort


@attrs.frozen
class Decision:
    """Whether something is allowed, and by which rule it is not."""

    #: Why it is not allowed; None if it is.
    reason: Reason | None = None
    #: The rule that denies it, as an administrator would recognize it; empty if it is allowed.
    rule: str = ""


ALLOWED = Decision()


@attrs.frozen
class Policy:
    """The rules that are in force: today, a deny list."""

    #: Labels and serials (upper case hexadecimal) of identities that are denied.
    denied: frozenset[str] = frozenset()

    def decide(self, subject: PeerIdentity, action: Action, resource: Resource) -> Decision:
        """Decide about one request. The same arguments always get the same decision.

        Args:
            subject: the identity that the application has proved.
            action: what it asks for; the deny list applies to every action.
            resource: of what; the deny list applies to every hybrid connection and target.
        """
        names = {
            subject.label: "label",
            unicodedata.normalize("NFC", subject.label): "label",
            subject.serial.upper(): "serial",
        }
        for name, kind in names.items():
            if name in self.denied:
                return Decision(Reason.IDENTITY_DENIED, f"deny list: {kind} {name}")
        return ALLOWED
