"""A managed relay, and browsers that show its pages."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from ..managed_relay import Relay
from .browser import Browser, browser_of


@pytest.fixture
async def relay(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> AsyncIterator[Relay]:
    yield Relay(nursery)
    nursery.cancel_scope.cancel()


@pytest.fixture
async def browser(relay: Relay) -> Browser:
    """It has not logged in."""
    return browser_of(relay)
