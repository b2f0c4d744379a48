"""Who calls the management API, and which hybrid connections a caller may see and change. Pure."""

from __future__ import annotations

import attrs

from ..security import ManagementRole

__all__ = ["EVERYTHING", "Caller", "Scope"]


@attrs.frozen
class Scope:
    """The hybrid connections that a caller may see and change."""

    #: Those whose names begin with this. Empty: all of them, and what is about the whole relay.
    prefix: str = ""
    #: The only one; None: those of `prefix`.
    only: str | None = None

    @property
    def is_everything(self) -> bool:
        """Whether it covers the whole relay."""
        return not self.prefix and self.only is None

    def covers(self, name: str) -> bool:
        """Whether it covers the hybrid connection of this name."""
        return name.startswith(self.prefix) if self.only is None else name == self.only


#: All hybrid connections, and what is about the whole relay.
EVERYTHING = Scope()


@attrs.frozen
class Caller:
    """The one identity of a request. Everything that is decided about a request is decided from it."""

    #: How the caller was identified: ``local`` is a user of the relay's machine, by the socket's credentials; `token`
    #: is a token of this API.
    kind: str
    #: For the audit log: ``uid 1000``.
    id: str
    role: ManagementRole
    scope: Scope = EVERYTHING

    @property
    def holder(self) -> tuple[str, str]:
        """Who counts as one in all limits.

        All keys of a hybrid connection do, because the holder of a key with the right Manage can make more keys.
        """
        return self.kind, self.scope.only if self.kind == "sas" and self.scope.only is not None else self.id

    def may(self, role: ManagementRole) -> bool:
        """Whether the caller may do what needs `role`."""
        return self.role >= role

    def sees(self, name: str | None) -> bool:
        """Whether the scope covers a hybrid connection, or (None) what is about the whole relay."""
        return self.scope.is_everything if name is None else self.scope.covers(name)
