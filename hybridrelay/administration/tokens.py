"""Creating and revoking tokens of the management API."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..relay.store.checks import no_token
from ..relay.store.store import NotFound
from ..security import ManagementRole
from .changes import attempted, nothing
from .new_files import check_new_files, new_files
from .registry import Registry, TokenInfo

__all__ = ["create_token", "revoke_token"]


def create_token(
    registry: Registry,
    name: str,
    role: ManagementRole,
    out: Path,
    *,
    scope: str,
    seconds: float,
    now: float,
    before_change: Callable[[], None] = nothing,
) -> TokenInfo:
    """Make a token, and write its text to a new file of mode 0600.

    Args:
        registry: the relay's registry.
        name, role, scope, seconds, now: see `Registry.create_token`.
        out: the new file.
        before_change: see `change_with_files`.

    Raises:
        ConfigurationError: see `Registry.create_token`; or the file cannot be created. Nothing was changed.
        OSError: the file cannot be written; the error names it. The token was deleted again.
    """
    check_new_files([out])
    before_change()
    token, text = registry.create_token(name, role, scope=scope, seconds=seconds, now=now)
    try:
        with new_files({out: f"{text.reveal()}\n"}):
            pass
    except BaseException:
        registry.delete_token(token.id)
        raise
    return token


def revoke_token(registry: Registry, which: str, *, before_change: Callable[[], None] = nothing) -> TokenInfo:
    """Delete a token. The next request that uses it is refused.

    Args:
        registry: the relay's registry.
        which: the name or the id of the token.
        before_change: see `change_with_files`.

    Raises:
        ConfigurationError: there is no such token, or `which` is the name of one token and the id of another.
    """
    attempt = which
    with attempted(lambda: registry.delete_token(attempt)):
        found = [token for token in registry.tokens() if which in (token.name, token.id)]
        if not found:
            raise no_token(which)
        if len(found) > 1:
            attempt = " or ".join(token.id for token in found)  # no token has this id
            raise NotFound(
                f"{which} is the name of one token and the id of another",
                remedy="give the id of the one with this name",
            )
    before_change()
    registry.delete_token(found[0].id)
    return found[0]
