"""A pair whose data channel broke silently gives its place to the program that it belongs to, and to no other."""

from __future__ import annotations

import random

from hybridrelay.errors import RendezvousError
from hybridrelay.protocol.config import DATA_CONFIG
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.holders import Holder
from hybridrelay.relay.core.rendezvous import SILENT_SECONDS, Rendezvous, RendezvousTable, Stopping
from hybridrelay.relay.core.rendezvous_states import Input, Outcome

from ..places import KEY, key, make_places

LISTENER = key("db", "listener")
RELAY_ID = b"\x01\x02\x03\x04"
#: How many pairs the key may have.
LIMIT = 4
ADDRESS = "192.0.2.1"


def test_an_idle_session_that_works_is_not_silent_for_so_long() -> None:
    """Its client sends a PING in time, even if that is delayed for as long as the connector would wait for it."""
    assert DATA_CONFIG.ping_interval + DATA_CONFIG.ping_timeout <= SILENT_SECONDS < DATA_CONFIG.resume_deadline


class Scene:
    """A key whose places are all taken by pairs of programs behind one address."""

    def __init__(self) -> None:
        self.now = 0.0
        #: What the senders have sent so far.
        self.sent: dict[str, int] = {}
        self.places = make_places(
            "pairs", 1000, clock=lambda: self.now, per_key=LIMIT, spares_established=True, established_after=90.0
        )
        self.table = RendezvousTable(
            RELAY_ID,
            token_bytes=random.Random(1).randbytes,
            places=self.places,
            open_places=make_places("open", 1000),
            bytes_from_sender=self.sent.__getitem__,
        )
        self.pairs = [self.join(f"program {number}") for number in range(LIMIT)]

    def ask(self, instance: str) -> Rendezvous:
        return self.table.create("db", LISTENER, Holder(KEY, ADDRESS), self.now, instance=instance)

    def join(self, instance: str) -> Rendezvous:
        return self.connect(self.ask(instance))

    def connect(self, made: Rendezvous) -> Rendezvous:
        arrivals = [self.table.use(ticket, self.now) for ticket in (made.listener_ticket, made.sender_ticket)]
        self.sent[made.id] = 100
        for arrival in arrivals:
            self.table.ready(arrival, self.now)
        self.table.establish(made.id)
        return made

    def is_refused(self, instance: str) -> bool:
        try:
            self.ask(instance)
        except RendezvousError as exc:
            return exc.reason is Reason.LIMIT
        return False


def test_a_session_gets_the_place_of_its_silent_pair() -> None:
    scene = Scene()
    silent = scene.pairs[1]
    assert scene.is_refused("program 1")
    scene.now = SILENT_SECONDS - 0.1
    assert scene.is_refused("program 1")
    scene.now = SILENT_SECONDS
    made = scene.ask("program 1")
    assert made.displaced == (Stopping(silent.id),)
    assert (len(scene.places), scene.places.kept) == (LIMIT, 0)
    ended = scene.table.end(silent.id, Input.CANCELLED, scene.now)
    assert getattr(ended, "outcome", None) is Outcome.DISPLACED
    assert len(scene.places) == LIMIT, "its place belongs to the new one"
    scene.connect(made)
    assert scene.is_refused("program 9"), "there are no more places than before"


def test_a_pair_that_still_sends_keeps_its_place() -> None:
    """Its program moves to another route, while the pair still works."""
    scene = Scene()
    for _ in range(10):
        assert scene.is_refused("program 1")
        scene.now += SILENT_SECONDS
        scene.sent[scene.pairs[1].id] += 1


def test_nobody_else_gets_the_place_of_a_silent_pair() -> None:
    scene = Scene()
    for _ in range(10):
        scene.now += SILENT_SECONDS
        assert scene.is_refused("program 9")
        assert scene.is_refused("")
    other_key = Holder(key("db", "other"), ADDRESS)
    scene.now += SILENT_SECONDS
    assert scene.table.create("db", LISTENER, other_key, scene.now, instance="program 1").displaced == ()


def test_if_the_attempt_fails_the_place_is_kept_for_the_next_one() -> None:
    scene = Scene()
    assert scene.is_refused("program 1")
    scene.now = SILENT_SECONDS
    made = scene.ask("program 1")
    scene.table.end(scene.pairs[1].id, Input.CANCELLED, scene.now)
    scene.table.end(made.id, Input.WITHDRAWN, scene.now)
    assert scene.places.kept == 1
    assert scene.ask("program 1").displaced == ()


def test_nothing_is_remembered_of_pairs_that_have_ended() -> None:
    scene = Scene()
    assert scene.is_refused("program 1")
    scene.table.end(scene.pairs[1].id, Input.FINISHES, scene.now)
    scene.now = SILENT_SECONDS
    made = scene.connect(scene.ask("program 1"))
    scene.now += SILENT_SECONDS
    assert scene.is_refused("program 1"), "it is another pair, which was not observed yet"
    scene.table.end(made.id, Input.BREAKS, scene.now)
    for pair in (scene.pairs[0], *scene.pairs[2:]):
        scene.table.end(pair.id, Input.BREAKS, scene.now)
    assert scene.table.joined == 0
