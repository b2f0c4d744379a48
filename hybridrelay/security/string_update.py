"""Deciding which changes to a connection string a running program applies, and which need a restart. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from .._value import Value
from ..errors import ConfigurationError
from .connection_string import ConnectionString

__all__ = ["StringUpdate", "update_string", "was_renewed"]

_KEY = "shared access key"
_TAKEN_UP: Mapping[str, Callable[[ConnectionString], object]] = {
    _KEY: lambda string: (string.key_name, string.key),
    "relays": lambda string: string.endpoints,
    "relay pins": lambda string: string.relay_pins,
    "target": lambda string: string.target,
    "local name": lambda string: string.local_name,
    "protocols": lambda string: string.protocols,
    "issuer": lambda string: string.issuer,
}


@attrs.frozen
class StringUpdate(Value):
    """The result of a change to a connection string."""

    #: The connection string to be used from now on.
    string: ConnectionString
    #: The names of the parts that have changed and are used from now on.
    taken_up: tuple[str, ...]
    #: The names of the parts that have changed and take effect only after a restart.
    needs_restart: tuple[str, ...]

    @property
    def key_changed(self) -> bool:
        """Whether the shared access key has changed."""
        return _KEY in self.taken_up

    def __str__(self) -> str:
        told = [f"now uses the changed {', '.join(self.taken_up)}"] if self.taken_up else []
        if self.needs_restart:
            told.append(f"the changed {', '.join(self.needs_restart)} needs a restart")
        return "; ".join(told) or "unchanged"


def update_string(current: ConnectionString, new: ConnectionString) -> StringUpdate:
    """Decide which changes in `new` a running program applies.

    The identity is not changed: open sessions are bound to the identities of both sides, and could not resume with
    another one. If issuers have made both for the same label, an identity that ends before the current one does not
    count as another one.

    Raises:
        ConfigurationError: `new` is for another hybrid connection, or for the other side.
    """
    if new.entity_path != current.entity_path:
        raise ConfigurationError(
            f"the connection string is now for {new.entity_path}, and was for {current.entity_path}",
            remedy="a running program cannot change to another hybrid connection: restart it",
        )
    if new.role is not current.role:
        raise ConfigurationError(
            f"the connection string is now for the {new.role}, and was for the {current.role}",
            remedy="put the correct connection string into the file",
        )
    identity_changed = (new.identity, new.authority) != (current.identity, current.authority)
    if identity_changed and was_renewed(current, new):
        identity_changed = False  # the file could not be written when the identity was renewed
    return StringUpdate(
        attrs.evolve(new, identity=current.identity, authority=current.authority),
        tuple(name for name, part in _TAKEN_UP.items() if part(new) != part(current)),
        ("identity",) if identity_changed else (),
    )


def was_renewed(current: ConnectionString, new: ConnectionString) -> bool:
    """Return whether the current identity was renewed from one like that in `new`, which ends earlier."""
    ours, theirs = current.identity, new.identity
    if ours is None or theirs is None or ours.issuer is None or theirs.issuer is None:
        return False
    if current.authority != new.authority or ours.details.name != theirs.details.name:
        return False
    return theirs.details.not_after < ours.details.not_after
