"""The event for an exception that nothing expects: a bug, unless memory has run out."""

from __future__ import annotations

from ._exception_groups import leaves
from .events.program import InternalError, OutOfMemory

__all__ = ["unexpected_failure"]


def unexpected_failure(where: str, exception: BaseException, connection: str = "") -> InternalError | OutOfMemory:
    """Return the event to be published.

    Args:
        where: what failed.
        exception: the exception, which may be a group.
        connection: the hybrid connection, if it concerns one.
    """
    if all(isinstance(leaf, MemoryError) for leaf in leaves(exception)):
        return OutOfMemory(where=where, connection=connection)
    return InternalError(where=where, connection=connection, exception=exception)
