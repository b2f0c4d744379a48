"""Tickets, states and limits of rendezvous: a table of transitions, and a machine against a naive model."""

from __future__ import annotations

import itertools
import random

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from hybridrelay.errors import RendezvousError
from hybridrelay.protocol.errors import RemoteProtocolError
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.places import Places
from hybridrelay.relay.core.rendezvous import (
    TRANSITIONS,
    Ended,
    Event,
    Leg,
    Outcome,
    Rendezvous,
    RendezvousTable,
    Side,
    State,
)
from hybridrelay.relay.model import KeyId
from hybridrelay.security import KeySlot

LISTENER = KeyId("sql", "listener", KeySlot.PRIMARY, 1)
SENDER = KeyId("sql", "sender", KeySlot.PRIMARY, 2)
OTHER = KeyId("sql", "other", KeySlot.SECONDARY, 3)


RELAY_ID = b"\x01\x02\x03\x04"


def table(**limits: float) -> RendezvousTable:
    return RendezvousTable(RELAY_ID, token_bytes=random.Random(1).randbytes, **limits)  # type: ignore[arg-type]


def refused(of: RendezvousTable, ticket: bytes, now: float = 0.0) -> bool:
    with pytest.raises(RemoteProtocolError) as caught:
        of.use(ticket, now)
    return caught.value.reason is Reason.TICKET_UNKNOWN


#: What brings a new rendezvous into each state.
PATHS: dict[State, list[Side | Event]] = {
    State.OFFERED: [],
    State.LISTENER_WAITS: [Side.LISTENER],
    State.SENDER_WAITS: [Side.SENDER],
    State.JOINED: [Side.SENDER, Side.LISTENER],
    State.ENDED: [Event.WITHDRAWN],
}


def apply(to: RendezvousTable, made: Rendezvous, event: Side | Event) -> Leg | Ended | None:
    """Let `event` happen by the method that it belongs to; None where it is refused or does nothing."""
    if isinstance(event, Side):
        ticket = made.listener_ticket if event is Side.LISTENER else made.sender_ticket
        try:
            return to.use(ticket, 0.0)
        except RemoteProtocolError:
            return None
    ended = {
        Event.EXPIRES: lambda: to.expire(made.expires_at),
        Event.REVOKED: lambda: to.revoke({LISTENER}),
        Event.SHUTDOWN: to.end_all,
    }.get(event, lambda: [one for one in [to.end(made.id, event)] if one])()
    return ended[0] if ended else None


@pytest.mark.parametrize("event", [*Side, *Event], ids=str)
@pytest.mark.parametrize("state", State, ids=str)
def test_every_event_in_every_state(state: State, event: Side | Event) -> None:
    rendezvous = table()
    made = rendezvous.create("sql", LISTENER, SENDER, 0.0)
    for step in PATHS[state]:
        apply(rendezvous, made, step)
    was_open, was_joined = rendezvous.open, rendezvous.joined

    happened = apply(rendezvous, made, event)

    if (state, event) not in TRANSITIONS:
        assert happened is None
        assert (rendezvous.open, rendezvous.joined) == (was_open, was_joined)
        return
    after, outcome = TRANSITIONS[state, event]
    if isinstance(event, Side):
        assert happened == Leg(made.id, "sql", event, joined=after is State.JOINED)
    else:
        waiting = {State.LISTENER_WAITS: Side.LISTENER, State.SENDER_WAITS: Side.SENDER}.get(state)
        assert isinstance(happened, Ended)
        assert happened.outcome is outcome
        assert happened.waiting is (None if event is Event.WAITING_LEAVES else waiting)
        # Of the revoked keys, it is the listener's.
        someone_else = event is Event.REVOKED and waiting is not Side.LISTENER
        assert someone_else == (happened.reason is Reason.PEER_ABSENT) or event is not Event.REVOKED
    assert rendezvous.open == (after in (State.LISTENER_WAITS, State.SENDER_WAITS))
    assert rendezvous.joined == (after is State.JOINED)
    assert (rendezvous.next_deadline() is not None) == bool(rendezvous.open)


def test_the_table_is_consistent() -> None:
    assert {outcome for _, outcome in TRANSITIONS.values()} == {None, *Outcome}
    assert all((after is State.ENDED) == (outcome is not None) for after, outcome in TRANSITIONS.values())
    assert State.ENDED not in {before for before, _ in TRANSITIONS}


def test_a_second_use_never_disturbs_the_first() -> None:
    rendezvous = table()
    made = rendezvous.create("sql", LISTENER, SENDER, 0.0)
    assert rendezvous.use(made.sender_ticket, 0.0) == Leg(made.id, "sql", Side.SENDER, joined=False)

    assert refused(rendezvous, made.sender_ticket)

    assert rendezvous.use(made.listener_ticket, 0.0) == Leg(made.id, "sql", Side.LISTENER, joined=True)
    assert refused(rendezvous, made.listener_ticket)
    assert rendezvous.joined == 1


@pytest.mark.parametrize("ticket", [bytes(32), bytes(33), RELAY_ID, RELAY_ID + bytes(28), RELAY_ID + bytes(29)])
def test_an_unknown_ticket_is_refused(ticket: bytes) -> None:
    rendezvous = table()
    rendezvous.create("sql", LISTENER, SENDER, 0.0)
    assert refused(rendezvous, ticket)


def test_a_ticket_of_another_relay_is_refused_with_a_reason_of_its_own() -> None:
    rendezvous = table()
    other = RendezvousTable(b"\x01\x02\x03\x05", token_bytes=random.Random(2).randbytes)
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
    assert [ended.outcome for ended in rendezvous.expire(130.0)] == [Outcome.NOBODY_CAME]
    assert rendezvous.next_deadline() is None


def test_a_joined_rendezvous_never_expires() -> None:
    rendezvous = table()
    made = rendezvous.create("sql", LISTENER, SENDER, 0.0)
    rendezvous.use(made.sender_ticket, 0.0)
    rendezvous.use(made.listener_ticket, 0.0)
    assert rendezvous.expire(1e9) == []
    assert rendezvous.joined == 1


def test_the_limit_of_one_sender_key_leaves_others_alone() -> None:
    rendezvous = table(max_open_per_sender_key=2, max_open=3)
    first = rendezvous.create("sql", LISTENER, SENDER, 0.0)
    rendezvous.create("sql", LISTENER, SENDER, 0.0)
    with pytest.raises(RendezvousError) as caught:
        rendezvous.create("sql", LISTENER, SENDER, 0.0)
    assert caught.value.reason is Reason.LIMIT

    rendezvous.create("sql", LISTENER, OTHER, 0.0)
    with pytest.raises(RendezvousError) as caught:
        rendezvous.create("sql", LISTENER, OTHER, 0.0)
    assert caught.value.reason is Reason.BUSY

    # Joined ones do not count.
    rendezvous.use(first.sender_ticket, 0.0)
    rendezvous.use(first.listener_ticket, 0.0)
    rendezvous.create("sql", LISTENER, SENDER, 0.0)


def test_a_revoked_key_ends_what_it_authorized_on_either_side() -> None:
    rendezvous = table()
    by_sender = rendezvous.create("sql", LISTENER, SENDER, 0.0)
    by_listener = rendezvous.create("sql", OTHER, LISTENER, 0.0)
    untouched = rendezvous.create("sql", LISTENER, LISTENER, 0.0)
    rendezvous.use(by_sender.sender_ticket, 0.0)
    rendezvous.use(by_sender.listener_ticket, 0.0)

    ended = rendezvous.revoke({SENDER, OTHER})

    assert {one.rendezvous_id for one in ended} == {by_sender.id, by_listener.id}
    assert {one.outcome for one in ended} == {Outcome.REVOKED}
    assert refused(rendezvous, by_listener.sender_ticket)
    rendezvous.use(untouched.sender_ticket, 0.0)


@pytest.mark.parametrize("side", Side)
def test_who_waits_hears_of_their_own_key_only(side: Side) -> None:
    """A revoked key is final to a sender. That the listener's was revoked is no reason for it to end."""
    key, other = (LISTENER, SENDER) if side is Side.LISTENER else (SENDER, LISTENER)
    for revoked, told in [
        ({other}, Reason.PEER_ABSENT),
        ({key}, Reason.KEY_REVOKED),
        ({key, other}, Reason.KEY_REVOKED),
    ]:
        rendezvous = table()
        made = rendezvous.create("sql", LISTENER, SENDER, 0.0)
        rendezvous.use(made.listener_ticket if side is Side.LISTENER else made.sender_ticket, 0.0)
        (ended,) = rendezvous.revoke(revoked)
        assert (ended.outcome, ended.waiting, ended.reason) == (Outcome.REVOKED, side, told)


def test_every_rendezvous_has_a_place_until_it_ends() -> None:
    places = Places("data channels", 4)
    rendezvous = table(places=places)
    made = [rendezvous.create("sql", LISTENER, SENDER, 0.0) for _ in range(2)]
    with pytest.raises(RendezvousError) as caught:
        rendezvous.create("sql", LISTENER, SENDER, 0.0)
    assert caught.value.reason is Reason.LIMIT
    assert rendezvous.open == 2, "nothing was made"
    rendezvous.use(made[0].sender_ticket, 0.0)
    rendezvous.use(made[0].listener_ticket, 0.0)
    assert len(places) == 2, "also when it is joined"
    assert rendezvous.end(made[0].id, Event.FINISHES)
    assert len(places) == 1
    rendezvous.expire(made[1].expires_at)
    assert len(places) == 0


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
    """Against a model that looks at every rendezvous ever made and keeps no books."""

    LIFETIME = 10.0
    MAX_OPEN = 6
    MAX_PER_KEY = 3

    made = Bundle("made")

    @attrs.define
    class Model:
        made: Rendezvous
        came: set[Side] = attrs.field(factory=set)
        outcome: Outcome | None = None

        @property
        def is_open(self) -> bool:
            return self.outcome is None and len(self.came) < 2

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.places = Places("data channels", 1000)
        self.table = RendezvousTable(
            RELAY_ID,
            token_bytes=random.Random(7).randbytes,
            lifetime=self.LIFETIME,
            max_open=self.MAX_OPEN,
            max_open_per_sender_key=self.MAX_PER_KEY,
            places=self.places,
        )
        self.models: dict[str, RendezvousMachine.Model] = {}
        self.generations = itertools.count(10)

    @rule(target=made, sender=st.sampled_from([SENDER, OTHER]))
    def create(self, sender: KeyId) -> str | None:
        opened = [model for model in self.models.values() if model.is_open]
        of_key = [model for model in opened if model.made.sender_key == sender]
        if len(of_key) >= self.MAX_PER_KEY or len(opened) >= self.MAX_OPEN:
            with pytest.raises(RendezvousError) as caught:
                self.table.create("sql", LISTENER, sender, self.now)
            assert caught.value.reason is (Reason.LIMIT if len(of_key) >= self.MAX_PER_KEY else Reason.BUSY)
            return None
        one = self.table.create("sql", LISTENER, sender, self.now)
        self.models[one.id] = self.Model(one)
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
        assert self.table.use(ticket, self.now) == Leg(name, "sql", side, joined=len(model.came) == 2)

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        late = [one for one in self.models.values() if one.is_open and one.made.expires_at <= self.now]
        outcomes = {
            frozenset[Side](): Outcome.NOBODY_CAME,
            frozenset({Side.LISTENER}): Outcome.SENDER_ABSENT,
            frozenset({Side.SENDER}): Outcome.LISTENER_ABSENT,
        }
        ended = self.table.expire(self.now)
        assert [one.rendezvous_id for one in ended] == [one.made.id for one in late]
        for one, model in zip(ended, late, strict=True):
            model.outcome = outcomes[frozenset(model.came)]
            assert one.outcome is model.outcome

    @rule(name=consumes(made), event=st.sampled_from([Event.WITHDRAWN, Event.FINISHES, Event.BREAKS]))
    def end(self, name: str | None, event: Event) -> None:
        if name is None:
            return
        model = self.models[name]
        joined = len(model.came) == 2
        ended = self.table.end(name, event)
        if model.outcome or joined == (event is Event.WITHDRAWN):
            assert ended is None
        else:
            assert ended is not None
            model.outcome = ended.outcome

    @rule(key=st.sampled_from([SENDER, OTHER]))
    def revoke(self, key: KeyId) -> None:
        hit = [one for one in self.models.values() if one.outcome is None and one.made.sender_key == key]
        assert {one.rendezvous_id for one in self.table.revoke({key})} == {one.made.id for one in hit}
        for one in hit:
            one.outcome = Outcome.REVOKED

    @invariant()
    def books_agree(self) -> None:
        running = [model for model in self.models.values() if model.outcome is None]
        opened = [model for model in running if model.is_open]
        assert self.table.open == len(opened) <= self.MAX_OPEN
        assert self.table.joined == len(running) - len(opened)
        assert len(self.places) == len(running)
        assert self.table.next_deadline() == min((model.made.expires_at for model in opened), default=None)

    def teardown(self) -> None:
        running = sum(model.outcome is None for model in self.models.values())
        assert len(self.table.end_all()) == running
        # Nothing is kept of what has ended, unused tickets included.
        assert len(self.places) == 0
        assert not any(vars(self.table)[name] for name in ("_entries", "_open", "_open_by_sender_key", "_by_ticket"))


TestRendezvousMachine = RendezvousMachine.TestCase
TestRendezvousMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
