"""Further ways to identify callers: packages that are installed beside this one (entry points)."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, runtime_checkable

import attrs

from ..errors import ConfigurationError
from .callers import Caller

__all__ = ["GROUP", "Authenticator", "Credentials", "load_authenticators"]

#: The group of entry points. Each one names a function without parameters that returns an `Authenticator`.
GROUP = "hybridrelay.management_auth"


@attrs.frozen
class Credentials:
    """What the Authorization header of a request contains (RFC 9110 section 11.6.2)."""

    #: In lower case: ``bearer``.
    scheme: str
    #: What follows it. A secret: do not log it.
    value: str = attrs.field(repr=False)
    #: The network address of the client; empty on the Unix socket.
    address: str = ""


@runtime_checkable
class Authenticator(Protocol):
    """Identifies callers by credentials that this program does not know, such as tokens of an identity provider."""

    async def authenticate(self, credentials: Credentials) -> Caller | None:
        """Who the caller is. `Caller.kind` is replaced by the name of the entry point.

        It runs in the relay's event loop (Trio), so it must not block, and it is cancelled after five seconds.

        Returns:
            The caller; None if the credentials are of a kind that it does not know, or are not valid.

        Raises:
            Exception: it failed. The request is answered with 500, and the relay's log has the traceback.
        """


def load_authenticators(points: Iterable[EntryPoint] | None = None) -> tuple[tuple[str, Authenticator], ...]:
    """Load all that are installed, with the names of their entry points, in order of the names.

    Args:
        points: the entry points; None means those that are installed.

    Raises:
        ConfigurationError: one of them cannot be used. Which callers are admitted must not depend on a failure.
    """
    found = sorted(entry_points(group=GROUP) if points is None else points, key=lambda point: point.name)
    names = [point.name for point in found]
    for name in names:
        if names.count(name) > 1 or name in _OWN_KINDS:
            raise _unusable(name, "the name is taken")
    return tuple((point.name, _load(point)) for point in found)


_OWN_KINDS = frozenset({"certificate", "local", "sas", "token", "unknown"})


def _load(point: EntryPoint) -> Authenticator:
    try:
        # This runs foreign code, which may raise anything at all.
        made = point.load()()
    except Exception as exc:
        raise _unusable(point.name, f"{type(exc).__name__}: {exc}") from exc
    if not isinstance(made, Authenticator):
        raise _unusable(point.name, f"{type(made).__name__} has no method 'authenticate'")
    return made


def _unusable(name: str, problem: str) -> ConfigurationError:
    return ConfigurationError(
        f"the entry point {name!r} of the group {GROUP} cannot be used: {problem}",
        remedy="correct the package that has it, or uninstall that",
    )
