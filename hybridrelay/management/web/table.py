"""The table of pages."""

from __future__ import annotations

from .login import PUBLIC_PAGES
from .overview import OVERVIEW_PAGES
from .page import Page, PublicPage

__all__ = ["PAGES"]

#: Everything that the management listener serves besides the operations of the API.
PAGES: tuple[Page | PublicPage, ...] = (
    *PUBLIC_PAGES,
    *OVERVIEW_PAGES,
)
