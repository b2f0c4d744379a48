"""Tokens of the management API: made and revoked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigurationError
from ..relay.store.store import Store, no_token
from ..security import ManagementRole, ManagementToken, Secret, generate_management_token
from .changes import nothing
from .new_files import new_files

__all__ = ["add_token", "create_token", "revoke_token"]


def add_token(
    store: Store, name: str, role: ManagementRole, *, scope: str, seconds: float, now: float
) -> tuple[ManagementToken, Secret]:
    """Make a token and add it to the store. Its text is in the result alone.

    Args:
        store: of the relay.
        name: of the token; unique.
        role: what it allows.
        scope: the beginning of the names of the hybrid connections that it is for; empty for the whole relay.
        seconds: how long it is valid.
        now: seconds since 1970.

    Raises:
        ConfigurationError: the name is taken, or an argument is not valid. Nothing was changed.
    """
    token, text = _generate(name, role, scope, seconds, now)
    store.add_token(token)
    return token, text


def create_token(
    store: Store,
    name: str,
    role: ManagementRole,
    out: Path,
    *,
    scope: str,
    seconds: float,
    now: float,
    before_change: Callable[[], None] = nothing,
) -> ManagementToken:
    """Make a token, and write its text to a new file of mode 0600.

    Args:
        store, name, role, scope, seconds, now: as for `add_token`.
        out: the new file.
        before_change: see `change_with_files`.

    Raises:
        ConfigurationError: as `add_token`, or the file cannot be made. Nothing was changed.
        OSError: the file cannot be written; names it.
    """
    token, text = _generate(name, role, scope, seconds, now)
    with new_files({out: f"{text.reveal()}\n"}):
        before_change()
        store.add_token(token)
    return token


def revoke_token(store: Store, which: str, *, before_change: Callable[[], None] = nothing) -> ManagementToken:
    """Remove a token. The next request with it is refused.

    Args:
        store: of the relay.
        which: its name or its id.
        before_change: see `change_with_files`.

    Raises:
        ConfigurationError: there is no such token, or one has this name and another one this id.
    """
    found = [token for token in store.tokens() if which in (token.name, token.id)]
    if not found:
        raise no_token(which)
    if len(found) > 1:
        raise ConfigurationError(
            f"{which} is the name of one token and the id of another", remedy="give the id of the one with this name"
        )
    before_change()
    store.delete_token(found[0].id)
    return found[0]


def _generate(
    name: str, role: ManagementRole, scope: str, seconds: float, now: float
) -> tuple[ManagementToken, Secret]:
    try:
        return generate_management_token(name, role, scope=scope, now=now, seconds=seconds)
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from None
