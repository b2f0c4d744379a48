"""Places with a clock that stands still, and with the same randomness each time."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from hybridrelay.relay.core.places import Places


def make_places(what: str, total: int, *, clock: Callable[[], float] = lambda: 0.0, **limits: Any) -> Places[Any]:
    """See `Places` for the arguments."""
    return Places(what, total, clock=clock, randbelow=random.Random(9).randrange, **limits)
