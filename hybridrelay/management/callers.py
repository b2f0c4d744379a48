"""Who calls the management API, and what each role may do. Pure."""

from __future__ import annotations

import enum

import attrs

__all__ = ["Caller", "Role"]


class Role(enum.IntEnum):
    """What a caller may do. Each role may do what those before it may."""

    #: See everything but keys.
    VIEWER = 1
    #: End what runs now, such as a listener's registration.
    OPERATOR = 2
    #: Change hybrid connections, rules and keys, and see keys.
    ADMIN = 3


@attrs.frozen
class Caller:
    """The one identity of a request. Everything that is decided about a request is decided from it."""

    #: How the caller was identified: ``local`` is a user of the relay's machine, by the socket's credentials.
    kind: str
    #: For the audit log: ``uid 1000``.
    id: str
    role: Role

    def may(self, role: Role) -> bool:
        """Whether the caller may do what needs `role`."""
        return self.role >= role
