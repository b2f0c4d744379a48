"""A changed connection string for a running program: what is used at once, and what needs a restart. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from ..errors import ConfigurationError
from .connection_string import ConnectionString

__all__ = ["StringUpdate", "update_string"]

_KEY = "shared access key"
_TAKEN_UP: Mapping[str, Callable[[ConnectionString], object]] = {
    _KEY: lambda string: (string.key_name, string.key),
    "relays": lambda string: string.endpoints,
    "relay pins": lambda string: string.relay_pins,
    "target": lambda string: string.target,
}


@attrs.frozen
class StringUpdate:
    """What becomes of a connection string that was changed."""

    #: To be used from now on.
    string: ConnectionString
    #: What is different in it, for people.
    taken_up: tuple[str, ...]
    #: What else was changed, and takes effect only after a restart.
    needs_restart: tuple[str, ...]

    @property
    def key_changed(self) -> bool:
        """Whether another shared access key is to be used."""
        return _KEY in self.taken_up

    def __str__(self) -> str:
        told = [f"now uses the changed {', '.join(self.taken_up)}"] if self.taken_up else []
        if self.needs_restart:
            told.append(f"the changed {', '.join(self.needs_restart)} needs a restart")
        return "; ".join(told) or "unchanged"


def update_string(current: ConnectionString, new: ConnectionString) -> StringUpdate:
    """Decide which changes in `new` a running program uses.

    The identity stays as it is: sessions that are open are tied to the identities of both sides, and could not resume
    with another one.

    Raises:
        ConfigurationError: `new` is for another hybrid connection, or the other side's.
    """
    if new.entity_path != current.entity_path:
        raise ConfigurationError(
            f"the connection string is for {new.entity_path} now, and was for {current.entity_path}",
            remedy="a running program stays with its hybrid connections: restart it to use another one",
        )
    if new.role is not current.role:
        raise ConfigurationError(
            f"the connection string is the {new.role}'s now, and was the {current.role}'s",
            remedy="put the right connection string into the file",
        )
    identity_changed = (new.identity, new.authority) != (current.identity, current.authority)
    return StringUpdate(
        attrs.evolve(new, identity=current.identity, authority=current.authority),
        tuple(name for name, part in _TAKEN_UP.items() if part(new) != part(current)),
        ("identity",) if identity_changed else (),
    )
