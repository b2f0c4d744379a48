"""Loads the authenticators of other installed packages (entry points), which identify callers in further ways."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, runtime_checkable

import attrs

from .._value import Value
from ..errors import ConfigurationError
from .callers import Caller

__all__ = ["GROUP", "Authenticator", "Credentials", "load_authenticators"]

#: The group of entry points. Each one names a function without parameters that returns an `Authenticator`.
GROUP = "hybridrelay.management_auth"
#: The values of `Caller.kind` that the relay itself uses, which no entry point may have as its name.
_OWN_KINDS = frozenset({"certificate", "local", "sas", "token", "unknown"})


@attrs.frozen
class Credentials(Value):
    """The content of a request's Authorization header (RFC 9110 section 11.6.2), and the address of the client."""

    #: The scheme in lower case, such as ``bearer``.
    scheme: str
    #: The rest of the header. This is a secret: do not log it.
    value: str = attrs.field(repr=False)
    #: The network address of the client; empty on the Unix socket.
    address: str = ""


@runtime_checkable
class Authenticator(Protocol):
    """Identifies callers by credentials that this program does not know, such as tokens of an identity provider."""

    async def authenticate(self, credentials: Credentials) -> Caller | None:
        """Return the caller. `Caller.kind` is replaced by the name of the entry point.

        This runs in the relay's event loop (Trio), so it must not block; it is cancelled after five seconds.

        Returns:
            The caller; None if the credentials are invalid or of an unknown kind.

        Raises:
            Exception: any failure. The request is answered with 500, and the traceback is in the relay's log.
        """


def load_authenticators(points: Iterable[EntryPoint] | None = None) -> tuple[tuple[str, Authenticator], ...]:
    """Load all authenticators, with the names of their entry points, sorted by name.

    Args:
        points: the entry points; None means those of all installed packages.

    Raises:
        ConfigurationError: an authenticator cannot be used. It is not skipped, because a failure must not change
            which callers are admitted.
    """
    found = sorted(entry_points(group=GROUP) if points is None else points, key=lambda point: point.name)
    names = [point.name for point in found]
    for name in names:
        if names.count(name) > 1 or name in _OWN_KINDS:
            raise _unusable(name, "the name is taken")
    return tuple((point.name, _load(point)) for point in found)


def _load(point: EntryPoint) -> Authenticator:
    try:
        # This runs code of another package, which may raise any exception.
        made = point.load()()
    except Exception as exc:
        raise _unusable(point.name, f"{type(exc).__name__}: {exc}") from exc
    if not isinstance(made, Authenticator):
        raise _unusable(point.name, f"{type(made).__name__} has no method 'authenticate'")
    return made


def _unusable(name: str, problem: str) -> ConfigurationError:
    return ConfigurationError(
        f"the entry point {name!r} of the group {GROUP} cannot be used: {problem}",
        remedy="correct the package that provides it, or uninstall that package",
    )
