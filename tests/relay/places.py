"""Places with a clock that stands still, and with the same randomness each time; and holders that share them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import attrs

from hybridrelay.errors import RendezvousError
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.holders import Holder
from hybridrelay.relay.core.places import Places
from hybridrelay.relay.model import KeyId
from hybridrelay.security import KeySlot


def make_places(what: str, total: int, *, clock: Callable[[], float] = lambda: 0.0, **limits: Any) -> Places[Any]:
    """See `Places` for the arguments."""
    return Places(what, total, clock=clock, randbelow=random.Random(9).randrange, **limits)


def key(connection: str, rule: str = "sender", generation: int = 1) -> KeyId:
    return KeyId(connection, rule, KeySlot.PRIMARY, generation)


KEY = key("db")
#: Holders in two networks; the neighbour is in that of the first one.
ROGUE, NEIGHBOUR, HONEST = (Holder(KEY, address) for address in ("192.0.2.1", "192.0.2.2", "198.51.100.7"))


@attrs.define
class Scene:
    """Places, of which each key may have a few, and a clock."""

    now: float = 0.0
    places: Places[str] = attrs.field(init=False)

    @classmethod
    def make(cls, limit: int, *, spares_established: bool = False, established_after: float = 1e9) -> Scene:
        scene = cls()
        scene.places = make_places(
            "places",
            1000,
            clock=lambda: scene.now,
            per_key=limit,
            spares_established=spares_established,
            established_after=established_after,
        )
        return scene

    def enter(self, holder: Holder, owner: str, *, established: bool = False) -> str | None:
        """Take a place. Returns the owner of the place that was displaced for it, or None."""
        displaced = self.places.choose_displaced(holder, owner)
        if displaced is not None:
            self.places.leave(displaced)
        place = self.places.take(holder, owner, owner)
        if established:
            self.places.establish(place)
        return None if displaced is None else displaced.owner

    def is_refused(self, holder: Holder, owner: str = "newcomer") -> bool:
        try:
            self.places.choose_displaced(holder, owner)
        except RendezvousError as exc:
            return exc.reason is Reason.LIMIT
        return False


def filled(holder: Holder, count: int) -> Scene:
    """A scene in which one holder has all of the key's places."""
    scene = Scene.make(count)
    for number in range(count):
        assert scene.enter(holder, f"{number}") is None
    return scene
