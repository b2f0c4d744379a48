"""A pair of the previous main process is taken over, and ends at once if it would not be allowed now."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from hybridrelay.events.relay import RendezvousEnded, RendezvousKept, RendezvousTakenOver
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.commands import StopMoving
from hybridrelay.relay.core.known import KnownConnections
from hybridrelay.relay.core.pair_note import PairNote
from hybridrelay.relay.core.pairs import Pair, PairEnd, PairTable, Traffic
from hybridrelay.relay.core.rendezvous_states import Input
from hybridrelay.relay.model import KeyId, StoreChange
from hybridrelay.relay.quotas import Limits, Quota
from hybridrelay.security import KeySlot, Right, Rule

from ..places import make_places
from .test_broker import NAME, Scene

ID = "1" * 32


def key_of(scene: Scene, rule: str) -> KeyId:
    key = scene.store.get(NAME).key_id(rule, KeySlot.PRIMARY)
    assert key is not None
    return key


def note_of(scene: Scene) -> PairNote:
    listener = PairEnd("a" * 32, "203.0.113.1", key_of(scene, "listener"))
    return PairNote(ID, listener, PairEnd("b" * 32, "203.0.113.2", key_of(scene, "sender")), 0.0)


def nothing(_: Scene) -> None:
    pass


def revoke(rule: str) -> Callable[[Scene], object]:
    return lambda scene: scene.store.revoke_key(NAME, rule, KeySlot.PRIMARY)


def swap_rights(scene: Scene) -> None:
    """The keys stay valid, but give other rights."""
    connection = scene.store.get(NAME)
    rules = tuple(
        Rule(rule.name, [Right.SEND if rule.name == "listener" else Right.LISTEN], rule.primary, rule.secondary)
        for rule in connection.rules
    )
    scene.broker.authorization.connections = KnownConnections({NAME: attrs.evolve(connection, rules=rules)})


def use_up(scene: Scene) -> None:
    quota = Quota(limits=Limits(bytes_per_month=1000, end_at_limit=True))
    scene.store.change(NAME, quota=quota)
    known = scene.broker.authorization.connections
    known.apply(StoreChange.between(known, scene.store.snapshot()))
    scene.broker.quotas.update((NAME,), None, scene.now)
    scene.broker.quotas.count_bytes({NAME: 1000}, 1000, scene.now)


def fill(scene: Scene) -> None:
    scene.broker.rendezvous._places = make_places("data channels", 1)
    other = note_of(scene)
    scene.broker.take_over(attrs.evolve(other, id="2" * 32), 0.0, scene.now, is_established=False)
    scene.broker.take()


CASES: dict[str, tuple[Callable[[Scene], object], tuple[str, Reason] | None]] = {
    "nothing": (nothing, None),
    "listener revoked": (revoke("listener"), ("revoked", Reason.KEY_REVOKED)),
    "sender revoked": (revoke("sender"), ("revoked", Reason.KEY_REVOKED)),
    "deleted": (lambda scene: scene.store.delete(NAME), ("revoked", Reason.KEY_REVOKED)),
    "rights": (swap_rights, ("revoked", Reason.KEY_REVOKED)),
    "disabled": (
        lambda scene: scene.store.change(NAME, disabled=True),
        ("disabled", Reason.CONNECTION_DISABLED),
    ),
    "bytes used up": (use_up, ("quota used up", Reason.TRANSFER_QUOTA)),
    "no room": (fill, ("displaced", Reason.LIMIT)),
}


@pytest.mark.parametrize("case", CASES)
def test_what_ends_a_pair_at_once(case: str) -> None:
    change, end = CASES[case]
    scene = Scene.make()
    note = note_of(scene)
    before = scene.broker.authorization.connections
    change(scene)
    if scene.broker.authorization.connections is before:
        scene.broker.authorization.connections = KnownConnections(scene.store.snapshot())
    scene.broker.take_over(note, scene.now - 7.0, scene.now, is_established=True)
    taken_over, *rest = scene.broker.take()
    assert taken_over == RendezvousTakenOver(connection=NAME, activity_id=ID)
    assert rest == ([] if end is None else [StopMoving(ID)])
    assert scene.broker.rendezvous.knows(ID)
    assert scene.broker.rendezvous.has_pair(NAME, "b" * 32, scene.now)

    scene.broker.moving_ended(
        ID,
        Input.BREAKS if end is None else Input.CANCELLED,
        scene.now,
        bytes_to_client=5,
        bytes_to_connector=6,
    )
    outcome, reason = end or ("closed by one side", Reason.SESSION_LOST)
    assert scene.broker.take()[1:] == [
        RendezvousEnded(
            connection=NAME,
            activity_id=ID,
            outcome=outcome,
            reason=reason,
            bytes_to_client=5,
            bytes_to_connector=6,
            seconds=7.0,
        )
    ]
    assert not scene.broker.rendezvous.knows(ID)


def test_a_pair_that_is_kept_has_not_ended() -> None:
    scene = Scene.make()
    scene.broker.take_over(note_of(scene), scene.now, scene.now, is_established=False)
    scene.broker.take()
    scene.broker.moving_ended(ID, Input.KEPT, scene.now, bytes_to_client=0, bytes_to_connector=0)
    assert scene.broker.take()[1:] == [RendezvousKept(connection=NAME, activity_id=ID)]
    assert scene.broker.rendezvous.joined == 0


def test_a_pair_that_has_to_end_ends_even_if_a_worker_keeps_it() -> None:
    scene = Scene.make()
    scene.broker.take_over(note_of(scene), scene.now, scene.now, is_established=False)
    scene.broker.drop_pair(ID, scene.now)
    scene.broker.take()
    scene.broker.moving_ended(ID, Input.KEPT, scene.now, bytes_to_client=0, bytes_to_connector=0)
    (ended,) = [one for one in scene.broker.take() if isinstance(one, RendezvousEnded)]
    assert ended.outcome == "dropped"


@attrs.define
class Moved:
    to_client: int
    to_connector: int


def test_what_the_previous_relay_has_counted_does_not_count_again() -> None:
    scene = Scene.make()
    note, moved, table = note_of(scene), Moved(100, 20), PairTable()
    table.taken_over(Pair(ID, NAME, note.listener, note.sender, 0.0, moved), Traffic(90, 15))
    assert table.of_connection(NAME) == Traffic(10, 5, 1)
    moved.to_client += 7
    assert table.of_connection(NAME) == Traffic(17, 5, 1)
    assert table.of_instance(NAME, "b" * 32) == Traffic(107, 20, 1)
    table.ended(ID)
    assert table.of_connection(NAME) == Traffic(17, 5, 0)
