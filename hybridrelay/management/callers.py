"""Who calls the management API, and which hybrid connections a caller may see and change. Pure."""

from __future__ import annotations

import attrs

from .._value import Value
from ..security import ManagementRole
from .logins import KeyCredential, TokenCredential

__all__ = ["EVERYTHING", "Caller", "Scope", "tenant_of"]


@attrs.frozen
class Scope(Value):
    """The hybrid connections that a caller may see and change."""

    #: Hybrid connections whose names begin with this. Empty means all, and also what concerns the whole relay.
    prefix: str = ""
    #: The only hybrid connection; None means those that `prefix` selects.
    only: str | None = None

    @property
    def is_everything(self) -> bool:
        """Whether the scope is the whole relay."""
        return not self.prefix and self.only is None

    def covers(self, name: str) -> bool:
        """Return whether the scope includes the hybrid connection of this name."""
        return name.startswith(self.prefix) if self.only is None else name == self.only


#: All hybrid connections, and what concerns the whole relay.
EVERYTHING = Scope()


def tenant_of(connection: str, scope: str) -> str:
    """Return the tenant to which a hybrid connection belongs.

    Args:
        connection: its name.
        scope: the longest scope of a token that covers it; empty if there is none. Only an administrator of the whole
            relay can create tokens, so nobody with a scope can make tenants.

    Returns:
        The scope. If there is none, the name up to and including its first slash, or if it has no slash, the name.
    """
    first, slash, _ = connection.partition("/")
    return scope or first + slash


@attrs.frozen
class Caller(Value):
    """The one identity of a request. Everything that is decided about a request is decided from it."""

    #: How the caller was identified: ``local`` (the user at the other end of the Unix socket), ``token`` (a token of
    #: this API), ``sas`` (a token made with a key that has the right Manage), ``certificate`` (a client certificate),
    #: or the name of an authenticator that is a plug-in.
    kind: str
    #: Who it is, for the audit log: for example ``uid 1000``, or the name and the id of a token.
    id: str
    role: ManagementRole
    scope: Scope = EVERYTHING
    #: Of a caller of the kind ``sas``: the tenant to which its hybrid connection belongs (`tenant_of`); otherwise
    #: empty.
    tenant: str = attrs.field(default="", eq=False)
    #: The credential of this relay that has identified the caller; None for callers of other kinds. Changes are only
    #: made while it is valid.
    credential: TokenCredential | KeyCredential | None = attrs.field(default=None, eq=False)

    @property
    def limit_group(self) -> tuple[str, str]:
        """Callers with the same value share their limits: all who use keys of one hybrid connection, because a key
        with the right Manage is enough to make more keys.
        """
        return self.kind, self.scope.only if self.kind == "sas" and self.scope.only is not None else self.id

    @property
    def tenant_group(self) -> tuple[str, str]:
        """Callers with the same value share the limits of a tenant: all who use keys of its hybrid connections,
        because somebody who may create hybrid connections can make keys for each of them. A token of the tenant has
        limits of its own, so that nobody with a key can keep the tenant's administrator from revoking it.
        """
        return ("keys", self.tenant) if self.tenant else self.limit_group

    def may(self, role: ManagementRole) -> bool:
        """Return whether the caller's role permits what requires `role`."""
        return self.role >= role

    def sees(self, name: str | None) -> bool:
        """Return whether the scope includes a hybrid connection or, for None, what concerns the whole relay."""
        return self.scope.is_everything if name is None else self.scope.covers(name)
