"""The paths of pages, for links between them, and the pages above a page. Pure."""

from __future__ import annotations

from typing import Final, TypeAlias

from .shown import segment

__all__ = ["CONNECTIONS", "Parents", "parents_of", "path_of"]

#: The pages above a page, as paths and names.
Parents: TypeAlias = tuple[tuple[str, str], ...]

#: The page with all hybrid connections.
CONNECTIONS: Final = ("/connections", "Connections")


def path_of(name: str) -> str:
    """Return the path of the page of a hybrid connection."""
    return f"/connections/{segment(name)}"


def parents_of(name: str) -> Parents:
    """Return the parents of a page about a part of a hybrid connection."""
    return CONNECTIONS, (path_of(name), name)
