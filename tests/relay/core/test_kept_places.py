"""Places that are kept for their holders: who gets them, for how long, and that nobody has more because of it."""

from __future__ import annotations

import pytest

from hybridrelay.relay.core.holders import Holder
from hybridrelay.relay.core.lottery import ROTATION_SECONDS
from hybridrelay.relay.core.places import TENURE_SECONDS, Place

from ..places import HONEST, KEY, NEIGHBOUR, ROGUE, Scene, key

KEPT_SECONDS = 25.0


def crowded(honest: Holder = HONEST, *, limit: int = 6) -> tuple[Scene, list[Place[str]]]:
    """A key whose places are all established: two of an honest holder, and the rest of another one."""
    scene = Scene.make(limit, spares_established=True)
    held = [scene.places.take(honest, f"honest {number}") for number in range(2)]
    for place in held:
        scene.places.establish(place)
    for number in range(limit - 2):
        scene.enter(ROGUE, f"{number}", established=True)
    # An established place may be displaced only once in `ROTATION_SECONDS`, and this newcomer has just done so.
    scene.enter(Holder(KEY, "203.0.113.1"), "third", established=True)
    return scene, held


@pytest.mark.parametrize("honest", [HONEST, NEIGHBOUR])
def test_a_place_is_kept_for_its_holder_however_often_others_ask(honest: Holder) -> None:
    scene, held = crowded(honest)
    scene.places.keep(held[0], KEPT_SECONDS)
    for _ in range(9):
        scene.now += 1.0
        assert scene.is_refused(ROGUE)
        assert scene.is_refused(Holder(KEY, "198.51.100.99"))
    assert scene.enter(honest, "resumed") is None
    assert (scene.places.kept, len(scene.places)) == (0, 6)
    scene.now += TENURE_SECONDS
    assert scene.is_refused(ROGUE), "it has time to be established again"


def test_of_the_places_of_a_holder_the_kept_one_is_displaced_first() -> None:
    """It is in use no longer, even if another one was taken after it."""
    scene = Scene.make(6)
    held = [scene.places.take(ROGUE, f"{number}") for number in range(6)]
    for place in held:
        scene.places.establish(place)
    scene.places.keep(held[2], KEPT_SECONDS)
    assert scene.enter(HONEST, "honest") == "2"


def test_a_kept_place_ends_by_time() -> None:
    scene, held = crowded()
    scene.places.keep(held[0], KEPT_SECONDS)
    scene.now = KEPT_SECONDS - 0.1
    assert (len(scene.places), scene.places.kept, scene.places.held(KEY)) == (6, 1, 6)
    scene.now = KEPT_SECONDS
    assert (len(scene.places), scene.places.kept, scene.places.held(KEY)) == (5, 0, 5)
    assert scene.enter(ROGUE, "new") is None
    scene.places.leave(held[0])
    assert len(scene.places) == 6


def test_places_that_are_kept_for_different_times_end_in_their_order() -> None:
    scene, held = crowded()
    scene.places.keep(held[0], KEPT_SECONDS)
    scene.places.keep(held[1], 3.0)
    scene.now = 3.0
    assert scene.places.kept == 1
    scene.now = KEPT_SECONDS
    assert scene.places.kept == 0


def test_an_attempt_that_fails_gives_the_place_back_to_be_kept_until_the_same_time() -> None:
    scene, held = crowded()
    scene.places.keep(held[0], KEPT_SECONDS)
    for _ in range(4):
        scene.now += 5.0
        place = scene.places.take(HONEST, "attempt")
        assert place.is_established
        scene.places.keep(place, 0.0)
        assert scene.is_refused(ROGUE)
    scene.now = KEPT_SECONDS
    assert (scene.places.kept, len(scene.places)) == (0, 5)


def test_an_attempt_that_never_ends_does_not_stay_established() -> None:
    scene, held = crowded()
    scene.places.keep(held[0], KEPT_SECONDS)
    scene.now = 20.0
    place = scene.places.take(HONEST, "attempt")
    scene.now = KEPT_SECONDS
    assert scene.places.is_provisional(place, 0.0)
    assert len(scene.places) == 6
    scene.now += TENURE_SECONDS
    assert scene.enter(ROGUE, "new") == "attempt"


def test_one_that_is_established_again_can_be_kept_again() -> None:
    scene, held = crowded()
    scene.places.keep(held[0], KEPT_SECONDS)
    scene.now = 20.0
    place = scene.places.take(HONEST, "resumed")
    scene.places.establish(place)
    scene.now = 100.0
    assert scene.is_refused(ROGUE), "it is established for good"
    scene.places.keep(place, KEPT_SECONDS)
    scene.now = 124.0
    assert scene.places.kept == 1


def test_what_was_never_established_is_not_kept() -> None:
    scene = Scene.make(2, spares_established=True)
    for seconds in (0.0, KEPT_SECONDS):
        place = scene.places.take(HONEST, "provisional")
        scene.places.keep(place, seconds)
        scene.places.keep(place, seconds)
    place = scene.places.take(HONEST, "established")
    scene.places.establish(place)
    scene.places.keep(place, 0.0)
    assert len(scene.places) == scene.places.kept == 0


def test_a_place_that_was_established_by_its_age_is_kept() -> None:
    scene = Scene.make(2, spares_established=True, established_after=90.0)
    place = scene.places.take(HONEST, "old")
    scene.now = 90.0
    scene.places.keep(place, KEPT_SECONDS)
    assert scene.places.kept == 1


def test_a_holder_gets_no_more_by_keeping() -> None:
    scene = Scene.make(10, spares_established=True)
    for number in range(200):
        scene.now += 0.01
        place = scene.places.take(ROGUE, f"{number}")
        scene.places.establish(place)
        scene.places.keep(place, KEPT_SECONDS)
    assert len(scene.places) == scene.places.kept == 1
    # Six at the same time.
    for place in [scene.places.take(ROGUE, f"{number}") for number in range(6)]:
        scene.places.establish(place)
        scene.places.keep(place, KEPT_SECONDS)
    for _ in range(6):
        assert scene.places.kept > 0
        scene.enter(ROGUE, "again")
    assert (len(scene.places), scene.places.kept) == (6, 0)


def test_a_kept_place_counts_for_its_holder_and_is_displaced_first() -> None:
    scene = Scene.make(8, spares_established=True)
    held = [scene.places.take(ROGUE, f"{number}") for number in range(8)]
    for place in held:
        scene.places.establish(place)
    scene.places.keep(held[2], KEPT_SECONDS)
    displaced = scene.places.choose_displaced(HONEST)
    assert displaced is held[2]
    scene.places.leave(displaced)
    assert (scene.places.kept, len(scene.places)) == (0, 7)
    scene.places.establish(scene.places.take(HONEST, "honest"))
    scene.places.keep(held[0], KEPT_SECONDS)
    scene.places.keep(held[1], KEPT_SECONDS)
    scene.now = ROTATION_SECONDS
    assert scene.places.choose_displaced(HONEST) is held[1]


def test_a_program_whose_address_has_changed_gets_its_place() -> None:
    scene, _ = crowded()
    place = scene.places.take(HONEST, "owner", "instance")
    scene.places.establish(place)
    other = scene.places.take(HONEST, "other owner", "other instance")
    scene.places.establish(other)
    scene.places.keep(other, KEPT_SECONDS)
    scene.places.keep(place, KEPT_SECONDS)
    moved = Holder(KEY, "203.0.113.99")
    assert scene.is_refused(moved, "unknown")
    assert scene.places.choose_displaced(moved, "instance") is None
    assert scene.places.take(moved, "resumed", "instance") is place
    assert (place.holder, place.is_established, scene.places.kept) == (moved, True, 1)
    # It is one of the places of its new address now, and is kept for that.
    scene.places.keep(place, KEPT_SECONDS)
    assert scene.places.take(moved, "another", "another") is place
    assert scene.places.take(HONEST, "at the old address", "third") is other
    # With another key, a name means nothing.
    scene.places.keep(place, KEPT_SECONDS)
    assert scene.places.take(Holder(key("db", "other"), moved.address), "owner", "another") is not place


def test_a_name_comes_before_an_address() -> None:
    scene = Scene.make(8, spares_established=True)
    held = [scene.places.take(HONEST, f"{number}", f"{number}") for number in range(3)]
    for place in held:
        scene.places.establish(place)
        scene.places.keep(place, KEPT_SECONDS)
    assert scene.places.take(HONEST, "1", "1") is held[1]
    assert scene.places.take(HONEST, "new", "new") is held[0]
    assert scene.places.take(HONEST, "nameless") is held[2]


def test_the_place_of_another_holder_or_key_is_not_used() -> None:
    scene = Scene.make(8, spares_established=True)
    place = scene.places.take(HONEST, "honest")
    scene.places.establish(place)
    scene.places.keep(place, KEPT_SECONDS)
    for other in (Holder(KEY, "198.51.100.8"), Holder(key("db", "other"), HONEST.address)):
        assert scene.places.take(other, "other") is not place
    assert scene.places.kept == 1


def test_nothing_is_kept_for_a_key_that_is_not_valid_any_more() -> None:
    scene = Scene.make(8, spares_established=True)
    for holder in (HONEST, ROGUE, Holder(key("other"))):
        place = scene.places.take(holder, "owner")
        scene.places.establish(place)
        scene.places.keep(place, KEPT_SECONDS)
    live = scene.places.take(HONEST, "live")
    scene.places.drop_kept(KEY)
    scene.places.drop_kept(key("unknown"))
    assert (scene.places.held(KEY), scene.places.kept) == (1, 1)
    scene.places.leave(live)
    assert len(scene.places) == 1


@pytest.mark.parametrize("breaks_silently", [True, False])
def test_a_place_is_kept_only_if_its_pair_is_known_to_have_ended(breaks_silently: bool) -> None:
    """Another pair of the same program may be for a move, during which the first one still works."""
    scene = Scene.make(6, spares_established=True)
    holders = [Holder(KEY, f"10.{number}.0.1") for number in range(6)]
    held = [scene.places.take(holder, f"{number}", f"program {number}") for number, holder in enumerate(holders)]
    for place in held:
        scene.places.establish(place)
    scene.now = 100.0
    if not breaks_silently:
        scene.places.keep(held[0], KEPT_SECONDS)
    for address in ("10.0.0.1", "203.0.113.1"):
        for _ in range(30):
            scene.now += 0.4
            assert scene.is_refused(Holder(KEY, address), "program 0") is breaks_silently
    assert scene.is_refused(holders[1], "program 1")


def test_a_session_whose_pair_broke_silently_gets_a_place_of_a_holder_that_has_many() -> None:
    scene, _ = crowded(limit=12)
    scene.now += ROTATION_SECONDS
    assert scene.enter(HONEST, "honest 0") is not None
