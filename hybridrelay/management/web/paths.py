"""The paths of pages, for links between them. Pure."""

from __future__ import annotations

from .shown import segment

__all__ = ["path_of"]


def path_of(name: str) -> str:
    """Return the path of the page of a hybrid connection."""
    return f"/connections/{segment(name)}"
