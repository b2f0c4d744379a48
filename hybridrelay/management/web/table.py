"""The table of pages."""

from __future__ import annotations

from .connection import CONNECTION_PAGES
from .connections import CONNECTIONS_PAGES
from .create import CREATE_PAGES
from .distribution import DISTRIBUTION_PAGES
from .editions import EDITION_PAGES
from .events_and_audit import EVENT_PAGES
from .login import PUBLIC_PAGES
from .monitor import MONITOR_PAGES
from .overview import OVERVIEW_PAGES
from .page import Page, PublicPage
from .rolling import ROLLING_PAGES
from .rules import RULE_PAGES
from .scale import SCALE_PAGES
from .sealed import SEALED_PAGES
from .settings import SETTINGS_PAGES
from .tokens import TOKEN_PAGES

__all__ = ["PAGES"]

#: All pages. The management listeners serve these, the operations of the API, and nothing else.
PAGES: tuple[Page | PublicPage, ...] = (
    *PUBLIC_PAGES,
    *OVERVIEW_PAGES,
    *CONNECTIONS_PAGES,
    *CONNECTION_PAGES,
    *RULE_PAGES,
    *ROLLING_PAGES,
    *DISTRIBUTION_PAGES,
    *SEALED_PAGES,
    *SETTINGS_PAGES,
    *CREATE_PAGES,
    *EVENT_PAGES,
    *MONITOR_PAGES,
    *SCALE_PAGES,
    *EDITION_PAGES,
    *TOKEN_PAGES,
)
