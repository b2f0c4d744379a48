"""Tickets, states and limits of rendezvous: the table of transitions, and a comparison with a naive model."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from hybridrelay.errors import RendezvousError
from hybridrelay.protocol.errors import RemoteProtocolError
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.holders import Holder
from hybridrelay.relay.core.places import Places
from hybridrelay.relay.core.rendezvous import EXPIRED_AT_A_TIME, Arrival, Ended, Rendezvous, RendezvousTable, Stopping
from hybridrelay.relay.core.rendezvous_states import TRANSITIONS, Input, Outcome, Side, State
from hybridrelay.relay.limits import KEPT_AFTER_BREAK_SECONDS, KEPT_AFTER_END_SECONDS, TICKET_LIFETIME_SECONDS
from hybridrelay.relay.model import KeyId
from hybridrelay.security import KeySlot

from ..places import make_places

LISTENER = KeyId("sql", "listener", KeySlot.PRIMARY, 1)
SENDER_KEY = KeyId("sql", "sender", KeySlot.PRIMARY, 2)
OTHER_KEY = KeyId("sql", "other", KeySlot.SECONDARY, 3)
SENDER, OTHER = Holder(SENDER_KEY, "192.0.2.1"), Holder(OTHER_KEY, "192.0.2.1")


RELAY_ID = b"\x01\x02\x03\x04"


def table(
    *,
    lifetime: float = TICKET_LIFETIME_SECONDS,
    places: Places[str] | None = None,
    open_places: Places[str] | None = None,
) -> RendezvousTable:
    """An empty table whose tickets are the same in every run; see `RendezvousTable` for the arguments."""
    return RendezvousTable(
        RELAY_ID,
        token_bytes=random.Random(1).randbytes,
        lifetime=lifetime,
        places=make_places("data channels", 1000) if places is None else places,
        open_places=make_places("open", 1000) if open_places is None else open_places,
    )


def refused(of: RendezvousTable, ticket: bytes, now: float = 0.0) -> bool:
    with pytest.raises(RemoteProtocolError) as caught:
        of.use(ticket, now)
    return caught.value.reason is Reason.TICKET_UNKNOWN


#: What brings a new rendezvous into each state.
PATHS: dict[State, list[Side | Input]] = {
    State.OFFERED: [],
    State.LISTENER_WAITS: [Side.LISTENER],
    State.SENDER_WAITS: [Side.SENDER],
    State.MATCHED: [Side.SENDER, Side.LISTENER],
    State.JOINED: [Side.SENDER, Side.LISTENER, Input.BOTH_READY],
    State.STOPPING: [Side.SENDER, Side.LISTENER, Input.BOTH_READY, Input.SHUTDOWN],
    State.ENDED: [Input.WITHDRAWN],
}
OPEN = (State.OFFERED, State.LISTENER_WAITS, State.SENDER_WAITS)


def apply(
    to: RendezvousTable, made: Rendezvous, event: Side | Input, *, before: State = State.MATCHED
) -> Arrival | Ended | Stopping | State | None:
    """Cause `event` by calling the method for it. Returns None if it is refused or has no effect."""
    if isinstance(event, Side):
        ticket = made.listener_ticket if event is Side.LISTENER else made.sender_ticket
        try:
            return to.use(ticket, 0.0)
        except RemoteProtocolError:
            return None
    if event is Input.BOTH_READY:
        if before is not State.MATCHED:
            return None  # `ready` needs arrivals, of which there are two in that state only
        states = [to.ready(Arrival(made.id, "sql", side), 0.0) for side in Side]
        assert states[0] is State.MATCHED
        return states[1]
    ended: Sequence[Ended | Stopping]
    match event:
        case Input.EXPIRES:
            ended = to.expire(made.expires_at)
        case Input.REVOKED:
            ended = to.revoke({LISTENER}, 0.0)
        case Input.SHUTDOWN:
            ended = to.end_all(0.0)
        case _:
            return to.end(made.id, event, 0.0)
    return ended[0] if ended else None


@pytest.mark.parametrize("event", [*Side, *Input], ids=str)
@pytest.mark.parametrize("state", State, ids=str)
def test_every_input_in_every_state(state: State, event: Side | Input) -> None:
    places = make_places("data channels", 4)
    rendezvous = table(places=places)
    made = rendezvous.create("sql", LISTENER, SENDER, 0.0)
    for step in PATHS[state]:
        apply(rendezvous, made, step)
    before = (rendezvous.open, rendezvous.joined, len(places))
    assert before == (state in OPEN, state not in (*OPEN, State.ENDED), state is not State.ENDED)

    happened = apply(rendezvous, made, event, before=state)

    if (state, event) not in TRANSITIONS:
        assert happened is None
        assert (rendezvous.open, rendezvous.joined, len(places)) == before
        return
    after, outcome = TRANSITIONS[state, event]
    if isinstance(event, Side):
        assert happened == Arrival(made.id, "sql", event)
    elif after is State.JOINED:
        assert happened is State.JOINED
    elif after is State.STOPPING:
        assert happened == Stopping(made.id)
    else:
        assert isinstance(happened, Ended)
        assert happened.outcome is (outcome or Outcome.SHUT_DOWN)
    assert rendezvous.open == (after in OPEN)
    assert rendezvous.joined == (after not in (*OPEN, State.ENDED))
    assert len(places) == (after is not State.ENDED)
    assert (rendezvous.next_deadline() is not None) == bool(rendezvous.open)


def test_the_table_is_consistent() -> None:
    # What was lost has no machine any more: the next main process reports it.
    assert {outcome for _, outcome in TRANSITIONS.values()} == {None, *Outcome} - {Outcome.LOST}
    for (before, _), (after, outcome) in TRANSITIONS.items():
        # The outcome is decided once: when it ends, or when it has to stop.
        decided = after in (State.ENDED, State.STOPPING) and before is not State.STOPPING
        assert decided == (outcome is not None)
    assert State.ENDED not in {before for before, _ in TRANSITIONS}


def test_channels_may_be_ready_in_another_order_than_their_tickets_were_used() -> None:
    rendezvous = table()
    made = rendezvous.create("sql", LISTENER, SENDER, 0.0)
    listener, sender = rendezvous.use(made.listener_ticket, 1.0), rendezvous.use(made.sender_ticket, 2.0)
    assert rendezvous.ready(sender, 3.0) is State.MATCHED
    assert rendezvous.ready(listener, 4.0) is State.JOINED
    ended = rendezvous.end(made.id, Input.FINISHES, 10.5)
    assert ended == Ended(made.id, "sql", Outcome.FINISHED, Reason.NO_ERROR, Reason.NO_ERROR, 6.5)
    assert rendezvous.ready(sender, 11.0) is State.ENDED


def test_a_second_use_never_disturbs_the_first() -> None:
    rendezvous = table()
    made = rendezvous.create("sql", LISTENER, SENDER, 0.0)
    assert rendezvous.use(made.sender_ticket, 0.0) == Arrival(made.id, "sql", Side.SENDER)

    assert refused(rendezvous, made.sender_ticket)

    assert rendezvous.use(made.listener_ticket, 0.0) == Arrival(made.id, "sql", Side.LISTENER)
    assert refused(rendezvous, made.listener_ticket)
    assert rendezvous.joined == 1


@pytest.mark.parametrize("ticket", [bytes(32), bytes(33), RELAY_ID, RELAY_ID + bytes(28), RELAY_ID + bytes(29)])
def test_an_unknown_ticket_is_refused(ticket: bytes) -> None:
    rendezvous = table()
    rendezvous.create("sql", LISTENER, SENDER, 0.0)
    assert refused(rendezvous, ticket)


def test_a_ticket_of_another_relay_is_refused_with_a_reason_of_its_own() -> None:
    rendezvous = table()
    other = RendezvousTable(
        b"\x01\x02\x03\x05",
        token_bytes=random.Random(2).randbytes,
        places=make_places("data channels", 10),
        open_places=make_places("open", 10),
    )
    ours, theirs = (one.create("sql", LISTENER, SENDER, 0.0) for one in (rendezvous, other))
    for ticket in (
        theirs.sender_ticket,
        theirs.listener_ticket,
        b"\x02" + bytes(31),
        b"\x00\x00\x00\x01" + bytes(28),
    ):
        with pytest.raises(RemoteProtocolError) as caught:
            rendezvous.use(ticket, 0.0)
        assert caught.value.reason is Reason.TICKET_OF_ANOTHER_RELAY
    assert rendezvous.open == 1
    rendezvous.use(ours.sender_ticket, 0.0)


def test_a_late_ticket_is_refused_even_before_expiry_was_noticed() -> None:
    rendezvous = table(lifetime=30.0)
    made = rendezvous.create("sql", LISTENER, SENDER, 100.0)
    assert made.expires_at == rendezvous.next_deadline() == 130.0
    assert refused(rendezvous, made.sender_ticket, 130.0)
    assert rendezvous.expire(129.9) == []
    assert [ended.outcome for ended in rendezvous.expire(130.0)] == [Outcome.BOTH_ABSENT]
    assert rendezvous.next_deadline() is None


def test_only_so_many_expire_at_a_time() -> None:
    rendezvous = table(lifetime=30.0)
    count = 2 * EXPIRED_AT_A_TIME + 1
    made = [rendezvous.create(f"db{number}", LISTENER, SENDER, 100.0).id for number in range(count)]
    ended = []
    for _ in range(3):
        assert rendezvous.next_deadline() == 130.0
        ended.append([one.rendezvous_id for one in rendezvous.expire(130.0)])
    assert [len(some) for some in ended] == [EXPIRED_AT_A_TIME, EXPIRED_AT_A_TIME, 1]
    assert [one for some in ended for one in some] == made
    assert rendezvous.next_deadline() is None


def test_a_joined_rendezvous_never_expires() -> None:
    rendezvous = table()
    made = rendezvous.create("sql", LISTENER, SENDER, 0.0)
    rendezvous.use(made.sender_ticket, 0.0)
    rendezvous.use(made.listener_ticket, 0.0)
    assert rendezvous.expire(1e9) == []
    assert rendezvous.joined == 1


def test_the_limit_of_one_sender_key_leaves_others_alone() -> None:
    rendezvous = table(open_places=make_places("open", 100, per_key=2))
    first = rendezvous.create("sql", LISTENER, SENDER, 0.0)
    rendezvous.create("sql", LISTENER, SENDER, 0.0)
    with pytest.raises(RendezvousError) as caught:
        rendezvous.create("sql", LISTENER, SENDER, 0.0)
    assert caught.value.reason is Reason.LIMIT

    rendezvous.create("sql", LISTENER, OTHER, 0.0)

    # Joined ones do not count.
    rendezvous.use(first.sender_ticket, 0.0)
    rendezvous.use(first.listener_ticket, 0.0)
    rendezvous.create("sql", LISTENER, SENDER, 0.0)


def test_a_revoked_key_ends_what_it_authorized_on_either_side() -> None:
    rendezvous = table()
    by_sender = rendezvous.create("sql", LISTENER, SENDER, 0.0)
    by_listener = rendezvous.create("sql", OTHER_KEY, Holder(LISTENER), 0.0)
    untouched = rendezvous.create("sql", LISTENER, Holder(LISTENER), 0.0)
    rendezvous.use(by_sender.sender_ticket, 0.0)
    rendezvous.use(by_sender.listener_ticket, 0.0)

    ended = rendezvous.revoke({SENDER_KEY, OTHER_KEY}, 0.0)

    assert {one.rendezvous_id for one in ended} == {by_sender.id, by_listener.id}
    assert all(isinstance(one, Ended) and one.outcome is Outcome.REVOKED for one in ended)
    assert refused(rendezvous, by_listener.sender_ticket)
    rendezvous.use(untouched.sender_ticket, 0.0)


@pytest.mark.parametrize("side", Side)
def test_a_side_that_waits_learns_only_that_its_own_key_was_revoked(side: Side) -> None:
    """A sender ends when its key is revoked. It must not end because the listener's key was revoked."""
    key, other = (LISTENER, SENDER_KEY) if side is Side.LISTENER else (SENDER_KEY, LISTENER)
    for revoked, status in [
        ({other}, Reason.PEER_ABSENT),
        ({key}, Reason.KEY_REVOKED),
        ({key, other}, Reason.KEY_REVOKED),
    ]:
        rendezvous = table()
        made = rendezvous.create("sql", LISTENER, SENDER, 0.0)
        arrival = rendezvous.use(made.listener_ticket if side is Side.LISTENER else made.sender_ticket, 0.0)
        rendezvous.ready(arrival, 0.0)
        (ended,) = rendezvous.revoke(revoked, 0.0)
        assert isinstance(ended, Ended)
        assert (ended.outcome, ended.reason) == (Outcome.REVOKED, Reason.KEY_REVOKED)
        assert ended.status == status


def test_every_rendezvous_has_a_place_until_it_ends() -> None:
    places = make_places("data channels", 4)
    rendezvous = table(places=places)
    made = [rendezvous.create("sql", LISTENER, SENDER, 0.0) for _ in range(2)]
    with pytest.raises(RendezvousError) as caught:
        rendezvous.create("sql", LISTENER, SENDER, 0.0)
    assert caught.value.reason is Reason.LIMIT
    assert rendezvous.open == 2, "nothing was made"
    rendezvous.use(made[0].sender_ticket, 0.0)
    rendezvous.use(made[0].listener_ticket, 0.0)
    assert len(places) == 2, "even when it is joined"
    for side in Side:
        rendezvous.ready(Arrival(made[0].id, "sql", side), 0.0)
    (stopping,) = [one for one in rendezvous.revoke({SENDER_KEY}, 0.0) if isinstance(one, Stopping)]
    assert stopping.rendezvous_id == made[0].id
    assert len(places) == 1, "until the bytes are no longer moved"
    assert rendezvous.end(made[0].id, Input.CANCELLED, 0.0)
    assert len(places) == 0
    made[1] = rendezvous.create("sql", LISTENER, SENDER, 0.0)
    assert len(places) == 1
    rendezvous.expire(made[1].expires_at)
    assert len(places) == 0


#: Another holder of the sender's key than `SENDER`.
OTHER_HOLDER = Holder(SENDER_KEY, "198.51.100.7")


def use_both(rendezvous: RendezvousTable, made: Rendezvous) -> None:
    for ticket in (made.sender_ticket, made.listener_ticket):
        rendezvous.use(ticket, 0.0)


def join_both(rendezvous: RendezvousTable, made: Rendezvous) -> None:
    use_both(rendezvous, made)
    for side in Side:
        rendezvous.ready(Arrival(made.id, "sql", side), 0.0)


def test_open_rendezvous_of_one_holder_are_displaced_by_another_one() -> None:
    places = make_places("data channels", 100)
    rendezvous = table(places=places, open_places=make_places("open", 1000, per_key=4))
    made = [rendezvous.create("sql", LISTENER, SENDER, 0.0) for _ in range(4)]
    first = rendezvous.create("sql", LISTENER, OTHER_HOLDER, 0.0)
    (ended,) = first.displaced
    assert isinstance(ended, Ended)
    assert (ended.rendezvous_id, ended.outcome, ended.status) == (made[0].id, Outcome.DISPLACED, Reason.LIMIT)
    assert refused(rendezvous, made[0].sender_ticket)
    assert (rendezvous.open, len(places)) == (4, 4)
    # One whose tickets were used is not open, so there is a place again.
    use_both(rendezvous, made[1])
    assert rendezvous.create("sql", LISTENER, OTHER_HOLDER, 0.0).displaced == ()


def test_a_side_that_waits_learns_that_its_rendezvous_was_displaced() -> None:
    rendezvous = table(open_places=make_places("open", 1000, per_key=2))
    made = [rendezvous.create("sql", LISTENER, SENDER, 0.0) for _ in range(2)]
    rendezvous.ready(rendezvous.use(made[0].sender_ticket, 0.0), 0.0)
    (ended,) = rendezvous.create("sql", LISTENER, OTHER_HOLDER, 0.0).displaced
    assert isinstance(ended, Ended)
    assert ended.status == Reason.LIMIT


def test_pairs_whose_sender_has_proved_nothing_are_displaced_and_others_stay() -> None:
    places = make_places("data channels", 100, per_key=3, spares_established=True)
    rendezvous = table(places=places)
    made = [rendezvous.create("sql", LISTENER, SENDER, 0.0) for _ in range(3)]
    for one in made:
        join_both(rendezvous, one)
    rendezvous.establish(made[0].id)
    new = rendezvous.create("sql", LISTENER, OTHER_HOLDER, 0.0)
    assert new.displaced == (Stopping(made[1].id),)
    assert len(places) == 3, "what is stopped has no place"
    ended = rendezvous.end(made[1].id, Input.CANCELLED, 0.0)
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.reason) == (Outcome.DISPLACED, Reason.LIMIT)
    assert len(places) == 3


def test_nothing_is_proved_before_the_channels_are_joined() -> None:
    places = make_places("data channels", 100, per_key=2, spares_established=True)
    rendezvous = table(places=places)
    made = [rendezvous.create("sql", LISTENER, SENDER, 0.0) for _ in range(2)]
    use_both(rendezvous, made[1])
    for one in made:
        rendezvous.establish(one.id)
    rendezvous.establish("unknown")
    (ended,) = rendezvous.create("sql", LISTENER, OTHER_HOLDER, 0.0).displaced
    assert ended.rendezvous_id == made[0].id


def proved_pair(rendezvous: RendezvousTable, sender: Holder = SENDER) -> Rendezvous:
    made = rendezvous.create("sql", LISTENER, sender, 0.0)
    join_both(rendezvous, made)
    rendezvous.establish(made.id)
    return made


@pytest.mark.parametrize(
    ("event", "seconds"),
    [
        (Input.BREAKS, KEPT_AFTER_BREAK_SECONDS),
        (Input.FINISHES, KEPT_AFTER_END_SECONDS),
        (Input.CANCELLED, 0.0),
        (Input.REVOKED, 0.0),
        (Input.DISPLACED, 0.0),
        (Input.SHUTDOWN, 0.0),
    ],
)
def test_how_long_the_place_of_a_pair_that_has_ended_is_kept(event: Input, seconds: float) -> None:
    now = 0.0
    places = make_places("data channels", 100, clock=lambda: now, per_key=1, spares_established=True)
    rendezvous = table(places=places)
    made = proved_pair(rendezvous)
    apply(rendezvous, made, event)
    rendezvous.end(made.id, Input.BREAKS, 0.0)
    assert rendezvous.joined == 0
    assert places.kept == len(places) == bool(seconds)
    if not seconds:
        return
    now = seconds - 0.1
    with pytest.raises(RendezvousError):
        rendezvous.create("sql", LISTENER, OTHER_HOLDER, now)
    now = seconds
    assert rendezvous.create("sql", LISTENER, OTHER_HOLDER, now).displaced == ()


def test_the_place_of_a_pair_that_proved_nothing_is_not_kept() -> None:
    places = make_places("data channels", 100, per_key=1, spares_established=True)
    rendezvous = table(places=places)
    made = rendezvous.create("sql", LISTENER, SENDER, 0.0)
    join_both(rendezvous, made)
    assert rendezvous.end(made.id, Input.BREAKS, 0.0)
    assert len(places) == 0


def test_a_session_gets_the_place_of_its_pair_back_until_it_has_resumed() -> None:
    now = 0.0
    places = make_places("data channels", 100, clock=lambda: now, per_key=4, spares_established=True)
    rendezvous = table(places=places)
    for _ in range(3):
        proved_pair(rendezvous, OTHER_HOLDER)
    assert rendezvous.end(proved_pair(rendezvous).id, Input.BREAKS, 0.0)
    # The first listener does not come; the second one comes, and breaks before the sender has proved itself.
    made = rendezvous.create("sql", LISTENER, SENDER, now)
    assert rendezvous.end(made.id, Input.WITHDRAWN, now)
    made = rendezvous.create("sql", LISTENER, SENDER, now)
    join_both(rendezvous, made)
    assert rendezvous.end(made.id, Input.BREAKS, now)
    now = 20.0
    with pytest.raises(RendezvousError):
        rendezvous.create("sql", LISTENER, OTHER_HOLDER, now)
    made = rendezvous.create("sql", LISTENER, SENDER, now)
    join_both(rendezvous, made)
    rendezvous.establish(made.id)
    now = 100.0
    with pytest.raises(RendezvousError):
        rendezvous.create("sql", LISTENER, OTHER_HOLDER, now)
    assert rendezvous.joined == len(places) == 4


def test_a_session_of_a_program_whose_address_has_changed_gets_the_place_of_its_pair() -> None:
    places = make_places("data channels", 100, per_key=1, spares_established=True)
    rendezvous = table(places=places)
    made = rendezvous.create("sql", LISTENER, SENDER, 0.0, instance="a")
    join_both(rendezvous, made)
    rendezvous.establish(made.id)
    assert rendezvous.end(made.id, Input.BREAKS, 0.0)
    with pytest.raises(RendezvousError):
        rendezvous.create("sql", LISTENER, OTHER_HOLDER, 0.0, instance="b")
    assert rendezvous.create("sql", LISTENER, OTHER_HOLDER, 0.0, instance="a").displaced == ()
    assert (len(places), places.kept) == (1, 0)


def test_a_kept_place_is_displaced() -> None:
    now = 0.0
    places = make_places("data channels", 100, clock=lambda: now, per_key=4, spares_established=True)
    rendezvous = table(places=places)
    made = [proved_pair(rendezvous) for _ in range(4)]
    assert rendezvous.end(made[0].id, Input.BREAKS, 0.0)
    assert rendezvous.create("sql", LISTENER, OTHER_HOLDER, now).displaced == ()
    assert (len(places), places.kept) == (4, 0)


def test_no_place_is_kept_for_a_key_that_was_revoked() -> None:
    places = make_places("data channels", 100, spares_established=True)
    rendezvous = table(places=places)
    for sender in (SENDER, OTHER):
        assert rendezvous.end(proved_pair(rendezvous, sender).id, Input.BREAKS, 0.0)
    assert places.kept == 2
    assert rendezvous.revoke({SENDER_KEY}, 0.0) == []
    assert (places.kept, places.held(OTHER_KEY)) == (1, 1)


def test_one_rendezvous_is_displaced_if_both_limits_are_reached() -> None:
    places = make_places("data channels", 100, per_key=3)
    rendezvous = table(places=places, open_places=make_places("open", 1000, per_key=3))
    for _ in range(3):
        rendezvous.create("sql", LISTENER, SENDER, 0.0)
    assert len(rendezvous.create("sql", LISTENER, OTHER_HOLDER, 0.0).displaced) == 1
    assert (rendezvous.open, len(places)) == (3, 3)


def of_another(connection: str) -> tuple[KeyId, Holder]:
    """A listener's key and a sender of another hybrid connection."""
    listener, sender = (KeyId(connection, name, KeySlot.PRIMARY, 1) for name in ("listener", "sender"))
    return listener, Holder(sender, "198.51.100.7")


@pytest.mark.parametrize("joined", [False, True])
def test_a_rendezvous_is_displaced_by_another_hybrid_connection_if_no_place_is_left(joined: bool) -> None:
    now = 0.0
    places = make_places("data channels", 6, clock=lambda: now, spares_established=True)
    rendezvous = table(places=places)
    for name in ("sql", "web", "ftp", "sql", "web", "ldap"):
        listener, sender = of_another(name)
        made = rendezvous.create(name, listener, sender, now)
        if joined:
            join_both(rendezvous, made)
            rendezvous.establish(made.id)
    now = 5.0
    listener, sender = of_another("new")
    new = rendezvous.create("new", listener, sender, now)
    (ended,) = new.displaced
    assert len(places) == 6
    assert places.held_by_connection("new") == 1
    if isinstance(ended, Stopping):
        stopped = rendezvous.end(ended.rendezvous_id, Input.CANCELLED, now)
        assert stopped is not None
        ended = stopped
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.reason) == (Outcome.DISPLACED_BY_OTHER, Reason.LIMIT)
    assert ended.connection == "sql"
    with pytest.raises(RendezvousError):
        rendezvous.create("new", listener, sender, now)


def test_one_rendezvous_of_another_hybrid_connection_is_displaced_if_no_place_of_either_kind_is_left() -> None:
    now = 0.0
    places, open_places = (make_places(what, 4, clock=lambda: now) for what in ("data channels", "open"))
    rendezvous = table(places=places, open_places=open_places)
    for name in ("sql", "web", "sql", "ldap"):
        listener, sender = of_another(name)
        rendezvous.create(name, listener, sender, now)
    now = 5.0
    listener, sender = of_another("new")
    assert len(rendezvous.create("new", listener, sender, now).displaced) == 1
    assert len(places) == len(open_places) == 4


def test_nothing_ends_if_one_of_the_limits_leaves_no_place() -> None:
    places = make_places("data channels", 100, per_key=2)
    rendezvous = table(places=places, open_places=make_places("open", 1000, per_key=2))
    joined = rendezvous.create("sql", LISTENER, OTHER_HOLDER, 0.0)
    join_both(rendezvous, joined)
    rendezvous.create("sql", LISTENER, SENDER, 0.0)
    with pytest.raises(RendezvousError):
        rendezvous.create("sql", LISTENER, SENDER, 0.0)
    assert (rendezvous.open, rendezvous.joined) == (1, 1)


def test_a_pair_that_is_being_stopped_is_displaced() -> None:
    places = make_places("data channels", 100, per_key=2)
    rendezvous = table(places=places)
    made = [rendezvous.create("sql", LISTENER, SENDER, 0.0) for _ in range(2)]
    join_both(rendezvous, made[0])
    assert rendezvous.revoke({LISTENER}, 0.0)[0] == Stopping(made[0].id)
    assert len(places) == 1
    rendezvous.create("sql", LISTENER, SENDER, 0.0)
    assert rendezvous.create("sql", LISTENER, OTHER_HOLDER, 0.0).displaced == ()
    assert len(places) == 2
    assert rendezvous.end(made[0].id, Input.CANCELLED, 0.0)
    assert len(places) == 2


def test_tickets_are_large_different_and_do_not_print() -> None:
    rendezvous = table()
    made = [rendezvous.create("sql", LISTENER, SENDER, 0.0) for _ in range(10)]
    tickets = {ticket for one in made for ticket in (one.listener_ticket, one.sender_ticket)}
    assert len(tickets) == 20
    assert {len(ticket) for ticket in tickets} == {32}
    assert {ticket[:4] for ticket in tickets} == {RELAY_ID}
    assert len({ticket[4:] for ticket in tickets}) == 20
    assert len({one.id for one in made}) == 10
    for one in made:
        assert repr(one.sender_ticket) not in repr(one)
        assert "ticket" not in repr(one)


class RendezvousMachine(RuleBasedStateMachine):
    """Compares the table with a model that examines every rendezvous ever made, and has no indexes."""

    LIFETIME = 10.0
    MAX_OPEN = 6  # of two keys
    MAX_PER_KEY = 3

    made = Bundle("made")

    @attrs.define
    class Model:
        made: Rendezvous
        sender_key: KeyId
        came: set[Side] = attrs.field(factory=set)
        ready: set[Side] = attrs.field(factory=set)
        outcome: Outcome | None = None
        #: The outcome is decided, and bytes are still moved.
        stopping: bool = False

        @property
        def is_running(self) -> bool:
            return self.outcome is None or self.stopping

        @property
        def is_joined(self) -> bool:
            return len(self.ready) == 2

        @property
        def is_open(self) -> bool:
            return self.outcome is None and len(self.came) < 2

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.places = make_places("data channels", 1000)
        self.table = RendezvousTable(
            RELAY_ID,
            token_bytes=random.Random(7).randbytes,
            lifetime=self.LIFETIME,
            places=self.places,
            open_places=make_places("open", 1000, per_key=self.MAX_PER_KEY),
        )
        self.models: dict[str, RendezvousMachine.Model] = {}
        self.generations = itertools.count(10)

    @rule(target=made, sender=st.sampled_from([SENDER, OTHER]))
    def create(self, sender: Holder) -> str | None:
        opened = [model for model in self.models.values() if model.is_open]
        of_key = [model for model in opened if model.sender_key == sender.key]
        if len(of_key) >= self.MAX_PER_KEY:  # the clock of the places stands still, so none is displaced
            with pytest.raises(RendezvousError) as caught:
                self.table.create("sql", LISTENER, sender, self.now)
            assert caught.value.reason is Reason.LIMIT
            return None
        one = self.table.create("sql", LISTENER, sender, self.now)
        self.models[one.id] = self.Model(one, sender.key)
        return one.id

    @rule(name=made, side=st.sampled_from(Side))
    def use(self, name: str | None, side: Side) -> None:
        if name is None:
            return
        model = self.models[name]
        ticket = model.made.listener_ticket if side is Side.LISTENER else model.made.sender_ticket
        if model.outcome or side in model.came or self.now >= model.made.expires_at:
            assert refused(self.table, ticket, self.now)
            return
        model.came.add(side)
        assert self.table.use(ticket, self.now) == Arrival(name, "sql", side)

    @rule(name=made, side=st.sampled_from(Side))
    def ready(self, name: str | None, side: Side) -> None:
        if name is None or side not in self.models[name].came or side in self.models[name].ready:
            return
        model = self.models[name]
        state = self.table.ready(Arrival(name, "sql", side), self.now)
        if model.outcome and not model.stopping:
            assert state is State.ENDED
            return
        model.ready.add(side)
        assert (state is State.JOINED) == model.is_joined

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        late = [one for one in self.models.values() if one.is_open and one.made.expires_at <= self.now]
        outcomes = {
            frozenset[Side](): Outcome.BOTH_ABSENT,
            frozenset({Side.LISTENER}): Outcome.SENDER_ABSENT,
            frozenset({Side.SENDER}): Outcome.LISTENER_ABSENT,
        }
        ended = self.table.expire(self.now)
        assert [one.rendezvous_id for one in ended] == [one.made.id for one in late]
        for one, model in zip(ended, late, strict=True):
            model.outcome = outcomes[frozenset(model.came)]
            assert one.outcome is model.outcome

    @rule(
        name=made,
        event=st.sampled_from([Input.WITHDRAWN, Input.LEAVES, Input.FINISHES, Input.BREAKS, Input.CANCELLED]),
    )
    def end(self, name: str | None, event: Input) -> None:
        if name is None:
            return
        model = self.models[name]
        ended = self.table.end(name, event, self.now)
        if not model.is_running:
            possible = False
        elif event is Input.WITHDRAWN:
            possible = len(model.came) < 2
        elif event is Input.LEAVES:
            possible = bool(model.came) and not model.is_joined
        else:
            possible = model.is_joined
        assert (ended is not None) == possible
        if ended is not None:
            assert isinstance(ended, Ended)
            assert not model.stopping or ended.outcome is model.outcome
            model.outcome, model.stopping = ended.outcome, False

    @rule(key=st.sampled_from([SENDER_KEY, OTHER_KEY]))
    def revoke(self, key: KeyId) -> None:
        hit = [one for one in self.models.values() if one.outcome is None and one.sender_key == key]
        ended = {one.rendezvous_id: one for one in self.table.revoke({key}, self.now)}
        assert set(ended) == {one.made.id for one in hit}
        for one in hit:
            one.outcome, one.stopping = Outcome.REVOKED, one.is_joined
            assert isinstance(ended[one.made.id], Stopping) == one.stopping

    @invariant()
    def counts_agree(self) -> None:
        running = [model for model in self.models.values() if model.is_running]
        opened = [model for model in running if model.is_open]
        assert self.table.open == len(opened) <= self.MAX_OPEN
        assert self.table.joined == len(running) - len(opened)
        assert len(self.places) == len(running)
        assert self.table.next_deadline() == min((model.made.expires_at for model in opened), default=None)

    def teardown(self) -> None:
        stopping = {one.made.id for one in self.models.values() if one.is_running and one.is_joined}
        running = {one.made.id for one in self.models.values() if one.is_running} - stopping
        ended = self.table.end_all(self.now)
        assert {one.rendezvous_id for one in ended if isinstance(one, Ended)} == running
        for name in stopping:
            assert self.table.end(name, Input.CANCELLED, self.now)
        # Nothing is kept of what has ended, unused tickets included.
        assert len(self.places) == 0
        assert not any(vars(self.table)[name] for name in ("_entries", "_open", "_by_ticket"))


TestRendezvousMachine = RendezvousMachine.TestCase
TestRendezvousMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
