"""Which handshake begins next, and what a peer that does not authenticate uses up."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.relay.edge.handshakes import Handshake, HandshakeQueue
from hybridrelay.relay.limits import RateLimit

FLOOD, HONEST, OTHER = "192.0.2.66", "192.0.2.1", "192.0.2.2"
KEY, OTHER_KEY = b"k" * 8, b"o" * 8
PROVED, EACH_KEY = RateLimit(4, 1.0), RateLimit(2, 1.0)


class Scene:
    """`HandshakeQueue` with a clock of its own and names for all handshakes."""

    def __init__(
        self,
        total: RateLimit,
        known: RateLimit,
        each: RateLimit,
        remembered: int = 10,
        proved: RateLimit = PROVED,
        each_key: RateLimit = EACH_KEY,
    ) -> None:
        self.queue = HandshakeQueue(total, known, each, proved=proved, each_key=each_key, remembered=remembered)
        self.now = 1000.0
        self.names: dict[Handshake, str] = {}
        self._numbers = itertools.count()

    def again(self, handshake: Handshake) -> None:
        """The second handshake of a connection."""
        self.queue.add(handshake, self.now)

    def want(self, group: str, name: str = "", key: bytes | None = None) -> Handshake:
        handshake = Handshake(group, lambda: None, key)
        self.names[handshake] = name or f"{group}#{next(self._numbers)}"
        self.queue.add(handshake, self.now)
        return handshake

    def begun(self) -> list[Handshake]:
        """All that may begin now."""
        return list(iter(lambda: self.queue.begin(self.now), None))

    def groups(self) -> list[str]:
        return [handshake.group for handshake in self.begun()]


def make_scene(total: int = 4, per_second: float = 2.0, each: int = 2) -> Scene:
    return Scene(RateLimit(total, per_second), RateLimit(total, per_second), RateLimit(each, 1.0))


def test_strangers_get_a_burst_and_then_the_rate() -> None:
    scene = make_scene(total=4, per_second=2.0, each=4)
    for _ in range(20):
        scene.want(FLOOD)
    assert len(scene.begun()) == 4
    assert scene.queue.next_at() == pytest.approx(scene.now + 1.0)  # one a second for one address
    for _ in range(3):
        scene.now += 1.0
        assert len(scene.begun()) == 1
    assert scene.queue.waiting == 13


def test_one_address_leaves_room_for_others() -> None:
    scene = make_scene(total=4, each=2)
    for _ in range(20):
        scene.want(FLOOD)
    scene.want(HONEST)
    assert sorted(scene.groups()) == sorted([FLOOD, FLOOD, HONEST])


def test_an_address_that_asks_rarely_comes_first_when_the_limit_is_used_up() -> None:
    scene = make_scene(total=4, each=4)
    flood = [f"198.51.100.{number}" for number in range(4)]
    for group in flood * 5:
        scene.want(group)
    assert len(scene.begun()) == 4
    scene.want(HONEST)
    scene.now += 0.5
    assert scene.groups() == [HONEST]


def busy_scene(addresses: int) -> tuple[Scene, list[str]]:
    """Two handshakes a second for all strangers, and this many addresses that have used up the limit."""
    scene = make_scene(total=4, per_second=2.0, each=4)
    flood = [f"198.51.100.{number}" for number in range(addresses)]
    for group in flood * 20:
        scene.want(group)
    for _ in range(3 * addresses):
        scene.begun()
        scene.now += 0.5
    scene.begun()
    return scene, flood


def test_the_second_handshake_of_a_newcomer_is_the_next_one_that_begins() -> None:
    """However many addresses wait: its first handshake does not send it behind all of them."""
    scene, _ = busy_scene(10)
    mine = scene.want(HONEST)
    scene.now += 0.5
    assert scene.begun() == [mine]
    scene.again(mine)
    scene.now += 0.5
    assert scene.begun() == [mine]


def test_a_connection_that_is_over_before_its_second_handshake_gives_no_position_to_others_of_its_address() -> None:
    scene, flood = busy_scene(10)
    mine = scene.want(HONEST)
    scene.now += 0.5
    assert scene.begun() == [mine]
    scene.again(mine)
    scene.want(HONEST, "newer")
    scene.queue.leave(mine, scene.now)
    scene.now += 0.5
    assert scene.groups()[0] in flood


def test_second_handshakes_that_are_saved_up_count_and_keep_nobody_out() -> None:
    """An address that begins many first handshakes, and asks for all second ones at once, gets its limit only."""
    scene = make_scene(total=8, per_second=2.0, each=4)
    saved = [scene.want(FLOOD) for _ in range(4)]
    assert len(scene.begun()) == 4
    for handshake in saved:
        scene.again(handshake)
    assert scene.begun() == [], "the limit of the address is used up"
    others = [scene.want(f"198.51.100.{number}") for number in range(4)]
    assert scene.begun() == others, "an address whose limit is used up does not stop the others"
    newcomer = scene.want(HONEST)
    scene.now += 0.5
    assert scene.begun() == [newcomer]


def test_within_an_address_second_handshakes_come_first() -> None:
    scene = make_scene(total=100, each=2)
    older = scene.want(FLOOD)
    assert scene.begun() == [older]
    newest = scene.want(FLOOD)
    scene.again(older)
    assert scene.begun() == [older]
    scene.now += 1.0
    assert scene.begun() == [newest]


def test_within_an_address_the_newest_comes_first() -> None:
    scene = make_scene(each=1)
    for name in "abc":
        scene.want(FLOOD, name)
    assert [scene.names[handshake] for handshake in scene.begun()] == ["c"]


def test_peers_that_authenticate_use_nothing_up() -> None:
    """Thousands of honest peers behind one address: no time passes, and all get in."""
    scene = make_scene(total=4, each=2)
    for _ in range(1000):
        scene.want(HONEST)
    served = 0
    while begun := scene.begun():
        for handshake in begun:
            scene.queue.authenticated(handshake, scene.now)
            scene.queue.leave(handshake, scene.now)
            served += 1
    assert served == 1000


def test_the_handshake_of_a_probe_stops_counting_when_its_peer_authenticates_afterwards() -> None:
    """The prober's check of the port does not authenticate, and precedes the control channel of each client."""
    scene = make_scene(total=100, each=2)
    for _ in range(50):
        probe = scene.want(HONEST)
        assert scene.begun() == [probe]
        scene.queue.leave(probe, scene.now)
        control = scene.want(HONEST)
        assert scene.begun() == [control]
        scene.queue.authenticated(control, scene.now)
        scene.queue.leave(control, scene.now)


def test_known_addresses_come_first_and_have_a_limit_of_their_own() -> None:
    scene = make_scene(total=4, each=4)
    known = scene.want(HONEST)
    scene.begun()
    scene.queue.authenticated(known, scene.now)
    for _ in range(20):
        scene.want(FLOOD)
        scene.want(OTHER)
    scene.begun()
    scene.want(HONEST)
    assert scene.groups() == [HONEST]


def test_a_known_address_comes_before_others_while_both_limits_have_room() -> None:
    scene = make_scene(total=4, each=4)
    known = scene.want(HONEST)
    scene.begun()
    scene.queue.authenticated(known, scene.now)
    scene.want(OTHER)
    scene.want(HONEST)
    assert scene.groups() == [HONEST, OTHER]


def test_the_handshakes_of_a_connection_that_authenticates_twice_are_subtracted_once() -> None:
    scene = make_scene(total=100, each=8)
    for _ in range(8):
        scene.want(HONEST)
    handshake, *_ = scene.begun()
    for _ in range(4):
        scene.queue.authenticated(handshake, scene.now)
    for _ in range(8):
        scene.want(HONEST)
    assert len(scene.begun()) == 2, "its own, and one for a probe"


def test_the_address_that_authenticated_least_recently_is_forgotten() -> None:
    scene = Scene(RateLimit(100, 1.0), RateLimit(100, 1.0), RateLimit(10, 1.0), remembered=2)
    for group in (FLOOD, HONEST, FLOOD, OTHER):
        handshake = scene.want(group)
        scene.begun()
        scene.queue.authenticated(handshake, scene.now)
        scene.queue.leave(handshake, scene.now)
    # All of them may begin; the one that is not remembered has the last priority.
    for group in (HONEST, FLOOD, OTHER):
        scene.want(group)
    assert scene.groups()[-1] == HONEST


def test_the_next_time_is_that_of_the_priority_which_has_room_first() -> None:
    scene = Scene(RateLimit(1, 0.1), RateLimit(1, 1.0), RateLimit(10, 10.0))
    known = scene.want(HONEST)
    scene.begun()
    scene.queue.authenticated(known, scene.now)
    scene.now += 100
    for group in (HONEST, OTHER) * 2:
        scene.want(group)
    assert len(scene.begun()) == 2
    assert scene.queue.next_at() == pytest.approx(scene.now + 1.0)
    scene.now += 1.0
    assert scene.groups() == [HONEST]
    assert scene.queue.next_at() == pytest.approx(scene.now + 9.0)


def test_a_known_address_that_floods_takes_nothing_from_others() -> None:
    scene = make_scene(total=4, each=2)
    known = scene.want(FLOOD)
    scene.begun()
    scene.queue.authenticated(known, scene.now)
    for _ in range(20):
        scene.want(FLOOD)
    assert scene.groups() == [FLOOD, FLOOD]
    scene.want(HONEST)
    assert scene.groups() == [HONEST]


def test_only_so_many_addresses_are_remembered() -> None:
    scene = Scene(RateLimit(1, 1.0), RateLimit(100, 1.0), RateLimit(10, 1.0), remembered=2)
    for group in (FLOOD, HONEST, OTHER):
        handshake = scene.want(group)
        scene.begun()
        scene.queue.authenticated(handshake, scene.now)
        scene.queue.leave(handshake, scene.now)
        scene.now += 10
    scene.want("198.51.100.1")
    assert len(scene.begun()) == 1, "the strangers' limit is used up"
    for group in (FLOOD, HONEST, OTHER):
        scene.want(group)
    assert sorted(scene.groups()) == sorted([HONEST, OTHER])


def test_a_proved_key_comes_first_from_the_address_of_a_flood() -> None:
    scene = make_scene(total=4, each=2)
    for _ in range(20):
        scene.want(FLOOD)
    assert scene.groups() == [FLOOD, FLOOD]
    mine = scene.want(FLOOD, key=KEY)
    for _ in range(20):
        scene.want(FLOOD)
    assert scene.begun() == [mine]
    assert scene.queue.waiting == 38


def test_proofs_that_are_repeated_use_up_the_limit_of_their_key_and_nothing_else() -> None:
    scene = make_scene(total=4, each=2)
    known = scene.want(HONEST)
    scene.begun()
    scene.queue.authenticated(known, scene.now)
    for _ in range(20):
        scene.want(FLOOD, key=KEY)
    # Two of the key's, and two as a stranger.
    assert scene.groups() == [FLOOD] * 4
    from_known = scene.want(HONEST, key=KEY)
    from_other = scene.want(OTHER, key=KEY)
    other_key = scene.want(FLOOD, key=OTHER_KEY)
    assert scene.begun() == [other_key, from_known, from_other]
    assert scene.queue.waiting == 16


def test_all_proved_keys_together_are_bounded() -> None:
    scene = make_scene(total=1, each=1)
    for number in range(20):
        scene.want(FLOOD, key=bytes([number] * 8))
    assert len(scene.begun()) == 4 + 1


def test_peers_with_a_proof_that_authenticate_use_nothing_up() -> None:
    scene = make_scene(total=1, each=1)
    scene.want(HONEST)
    scene.begun()  # the limit of its address is used up
    for _ in range(100):
        probe = scene.want(HONEST, key=KEY)
        assert scene.begun() == [probe]
        scene.queue.leave(probe, scene.now)
        control = scene.want(HONEST, key=KEY)
        assert scene.begun() == [control]
        scene.queue.authenticated(control, scene.now)
        scene.queue.leave(control, scene.now)


def test_the_limit_of_a_key_has_room_again_as_time_passes() -> None:
    scene = make_scene(total=1, each=1)
    for _ in range(20):
        scene.want(FLOOD, key=KEY)
    scene.begun()
    scene.now += 1.0
    assert len(scene.begun()) == 2, "one of the key's, one of the address's"


def test_a_peer_with_a_proof_that_leaves_waits_in_no_queue() -> None:
    scene = make_scene()
    scene.queue.leave(scene.want(HONEST, key=KEY), scene.now)
    assert scene.queue.begin(scene.now) is None
    assert (scene.queue.waiting, scene.queue.next_at()) == (0, None)
    scene.queue.leave(scene.want(HONEST), scene.now)
    assert not scene.queue._queues


def test_a_connection_that_is_over_is_not_served_and_leaving_is_harmless_at_any_time() -> None:
    scene = make_scene()
    gone = scene.want(FLOOD)
    scene.queue.leave(gone, scene.now)
    scene.queue.leave(gone, scene.now)
    assert scene.queue.begin(scene.now) is None
    assert scene.queue.next_at() is None
    again = scene.want(FLOOD)
    assert scene.begun() == [again]
    scene.queue.leave(again, scene.now)


def test_nothing_is_left_of_a_flood_from_many_addresses() -> None:
    scene = make_scene()
    for number in range(5000):
        scene.queue.leave(scene.want(f"2001:db8:{number:x}::/64"), scene.now)
        scene.queue.begin(scene.now)
    assert len(scene.queue._queues) < 10
    assert sum(map(len, scene.queue._heaps.values())) < 10


def test_asking_and_leaving_again_and_again_does_not_lengthen_the_queue() -> None:
    scene = make_scene(total=100, each=2)
    for _ in range(2):
        scene.want(FLOOD)
    scene.begun()
    scene.want(HONEST)  # waits in front, because it has had fewer, and keeps what is behind it from being looked at
    for _ in range(5000):
        scene.queue.leave(scene.want(FLOOD), scene.now)
    assert sum(map(len, scene.queue._heaps.values())) < 10


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["want", "want", "prove", "begin", "leave", "authenticated", "wait"]), st.integers(0, 5)
        ),
        max_size=120,
    ),
    st.integers(1, 5),
    st.integers(1, 3),
)
def test_strangers_never_get_more_than_the_limit_and_none_is_forgotten(
    steps: list[tuple[str, int]], burst: int, each: int
) -> None:
    scene = Scene(
        RateLimit(burst, 1.0),
        RateLimit(burst, 1.0),
        RateLimit(each, 0.5),
        2,
        RateLimit(burst, 1.0),
        RateLimit(each, 0.5),
    )
    waiting: list[Handshake] = []
    begun: list[Handshake] = []
    strangers = 0
    start = scene.now
    anybody_known = proved = False
    for step, which in steps:
        match step:
            case "want":
                waiting.append(scene.want(f"10.0.0.{which}"))
            case "prove":
                proved = True
                waiting.append(scene.want(f"10.0.0.{which}", key=bytes([which % 2] * 8)))
            case "begin":
                expected = scene.queue.next_at()
                handshake = scene.queue.begin(scene.now)
                assert (handshake is not None) == (expected is not None and expected <= scene.now)
                if handshake is not None:
                    waiting.remove(handshake)
                    begun.append(handshake)
                    strangers += 1
            case "leave" if waiting:
                scene.queue.leave(waiting.pop(which % len(waiting)), scene.now)
            case "authenticated" if begun:
                anybody_known = True
                scene.queue.authenticated(begun.pop(which % len(begun)), scene.now)
            case "wait":
                scene.now += which / 4
        assert scene.queue.waiting == len(waiting)
        if not anybody_known:
            assert strangers <= (1 + proved) * (burst + (scene.now - start)) + 1e-6
    for _ in waiting:
        scene.now += 1000
        assert scene.queue.begin(scene.now) is not None
