"""The broker under any sequence of inputs: every rendezvous ends in exactly one event, and nothing is left over."""

from __future__ import annotations

import random
from collections import Counter

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hybridrelay.errors import RendezvousError
from hybridrelay.events import (
    ListenerLeft,
    ListenerRegistered,
    RendezvousEnded,
    RendezvousJoined,
)
from hybridrelay.protocol.errors import RemoteProtocolError
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.authorization import Authorization, Grant
from hybridrelay.relay.core.broker import Broker
from hybridrelay.relay.core.commands import AskListener, EndRegistration, JoinMade, RefuseDataChannel, StopMoving
from hybridrelay.relay.core.join import Answer
from hybridrelay.relay.core.listener import Listener
from hybridrelay.relay.core.listeners import ListenerTable
from hybridrelay.relay.core.rendezvous import Arrival, RendezvousTable
from hybridrelay.relay.core.rendezvous_states import Input, Outcome, State
from hybridrelay.relay.limits import KEPT_AFTER_BREAK_SECONDS
from hybridrelay.relay.model import KeyId, StoreChange
from hybridrelay.relay.store.memory import MemoryStore
from hybridrelay.security import KeySlot, Right, Rule

from ..places import make_places

NAMES = ("db", "web")
INSTANCES = ("a", "b", "c")
#: Few, so that limits are met.
PAIRS = 6
PAIRS_OF_KEY = 2
LIFETIME = 10.0


@attrs.define(eq=False)
class Channel:
    """A data channel that has presented its ticket."""

    arrival: Arrival
    is_ready: bool = False


class BrokerMachine(RuleBasedStateMachine):
    """A shell that does what the broker says, with everything happening in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.store = MemoryStore()
        for name in NAMES:
            rules = [Rule.generate("listener", [Right.LISTEN]), Rule.generate("sender", [Right.SEND])]
            self.store.create(name, ["relay"], rules)
        self.pairs = make_places(
            "data channels", PAIRS, per_key=PAIRS_OF_KEY, clock=lambda: self.now, spares_established=True
        )
        self.table = RendezvousTable(
            b"\1\2\3\4",
            token_bytes=random.Random(3).randbytes,
            places=self.pairs,
            open_places=make_places("open", 100, clock=lambda: self.now),
            lifetime=LIFETIME,
        )
        randomness = random.Random(5)
        self.broker: Broker[int] = Broker(
            Authorization(self.store.snapshot()),
            make_places("control channels", 100),
            ListenerTable(randbelow=randomness.randrange, clock=lambda: self.now, max_per_connection=2),
            self.table,
            holder_secret=bytes(32),
        )
        self.handles = 0
        self.registered: dict[tuple[str, str], Listener[int]] = {}
        self.asks: list[AskListener[int]] = []
        self.tickets: list[bytes] = []
        self.used: set[bytes] = set()
        self.channels: list[Channel] = []
        #: Rendezvous whose bytes are moved, and those that are to stop.
        self.moving: list[str] = []
        self.stopping: set[str] = set()
        #: All rendezvous, with the key of the sender.
        self.made: dict[str, KeyId] = {}
        self.ends: Counter[str] = Counter()
        self.listener_events: Counter[tuple[str, str]] = Counter()

    # --- the shell

    def carry_out(self) -> None:
        for output in self.broker.take():
            match output:
                case StopMoving(name):
                    assert name in self.moving
                    assert name not in self.stopping, "it is commanded once"
                    self.stopping.add(name)
                case RefuseDataChannel(name):
                    self.channels = [one for one in self.channels if one.arrival.rendezvous_id != name]
                case EndRegistration(listener):
                    key = (listener.connection, listener.instance)
                    if self.registered.get(key) is listener:
                        del self.registered[key]
                case RendezvousEnded():
                    name = output.activity_id
                    self.ends[name] += 1
                    assert output.outcome in {one.value for one in Outcome}
                    assert name not in self.moving, "it does not end while its bytes are moved"
                case RendezvousJoined():
                    assert self.ends[output.activity_id] == 0
                case ListenerRegistered():
                    self.listener_events[output.connection, output.instance] += 1
                case ListenerLeft():
                    self.listener_events[output.connection, output.instance] -= 1

    def step(self, step: object) -> None:
        if isinstance(step, AskListener):
            self.made[step.rendezvous_id] = step.join.grant.key
            self.asks.append(step)
            assert not {step.ticket} & set(self.tickets), "tickets are never given twice"
            self.tickets += [step.ticket, step.join.sender_ticket]
        self.carry_out()

    # --- inputs

    @rule(name=st.sampled_from(NAMES), instance=st.sampled_from(INSTANCES), replaces=st.sampled_from(["", "a", "b"]))
    def register(self, name: str, instance: str, replaces: str) -> None:
        key = self.broker.authorization.connections[name].key_id("listener", KeySlot.PRIMARY)
        if key is None:
            return
        self.handles += 1
        listener = Listener(name, instance, self.handles, key, self.handles, f"192.0.2.{self.handles % 200}")
        try:
            self.broker.register(listener, self.now, replaces=[replaces] if replaces else [])
        except RendezvousError:
            return
        self.carry_out()
        self.registered[name, instance] = listener

    @precondition(lambda self: self.registered)
    @rule(data=st.data(), expired=st.booleans())
    def unregister(self, data: st.DataObject, expired: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.registered)))
        listener = self.registered[key]
        if expired:
            self.broker.token_expired(listener)
        else:
            self.broker.unregister(listener)
            del self.registered[key]
        self.carry_out()

    @rule(
        name=st.sampled_from(NAMES),
        wanted=st.sampled_from([None, *INSTANCES]),
        address=st.sampled_from(["", "192.0.2.1", "192.0.2.2", "198.51.100.1"]),
    )
    def join(self, name: str, wanted: str | None, address: str) -> None:
        connection = self.broker.authorization.connections[name]
        key = connection.key_id("sender", KeySlot.PRIMARY)
        if key is not None:
            self.step(self.broker.joins.begin(Grant(connection, key, 1e9), wanted, address, now=self.now))

    @precondition(lambda self: self.asks)
    @rule(data=st.data(), answer=st.sampled_from([*Answer]), reason=st.sampled_from(Reason))
    def answer(self, data: st.DataObject, answer: Answer, reason: Reason) -> None:
        ask = data.draw(st.sampled_from(self.asks))
        self.asks.remove(ask)
        if answer in (Answer.CHOSEN, Answer.NO_LISTENER, Answer.CANCELLED):
            self.broker.joins.cancel(ask, self.now)
            self.carry_out()
            assert self.ends[ask.rendezvous_id] == 1
            return
        step = self.broker.joins.answered(ask, answer, self.now, reason=reason)
        assert isinstance(step, JoinMade) == (answer is Answer.ACCEPTED)
        self.step(step)
        assert answer is Answer.ACCEPTED or self.ends[ask.rendezvous_id] == 1
        if data.draw(st.booleans()):  # the listener has accepted, and then reports that it cannot dial
            self.broker.withdraw(ask.rendezvous_id, self.now)
            self.carry_out()

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def use_ticket(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.tickets))
        try:
            arrival = self.broker.use_ticket(ticket, self.now)
        except RemoteProtocolError:
            return
        assert ticket not in self.used, "a ticket is used at most once"
        self.used.add(ticket)
        self.channels.append(Channel(arrival))

    @precondition(lambda self: self.channels)
    @rule(data=st.data())
    def ready(self, data: st.DataObject) -> None:
        channel = data.draw(st.sampled_from(self.channels))
        if channel.is_ready:
            return
        channel.is_ready = True
        state = self.broker.ready(channel.arrival, self.now)
        if state is State.JOINED:
            self.moving.append(channel.arrival.rendezvous_id)
        self.carry_out()

    @precondition(lambda self: self.channels)
    @rule(data=st.data())
    def gone(self, data: st.DataObject) -> None:
        channel = data.draw(st.sampled_from(self.channels))
        if channel.arrival.rendezvous_id not in self.moving:
            self.channels.remove(channel)
        self.broker.gone(channel.arrival, self.now)
        self.carry_out()

    @precondition(lambda self: self.made)
    @rule(data=st.data())
    def prove(self, data: st.DataObject) -> None:
        self.broker.establish(data.draw(st.sampled_from(sorted(self.made))))
        self.carry_out()

    @precondition(lambda self: self.moving)
    @rule(data=st.data(), how=st.sampled_from([Input.FINISHES, Input.BREAKS, Input.CANCELLED]))
    def moving_ends(self, data: st.DataObject, how: Input) -> None:
        self.stop(data.draw(st.sampled_from(self.moving)), how)

    def stop(self, name: str, how: Input) -> None:
        self.moving.remove(name)
        self.stopping.discard(name)
        self.broker.moving_ended(name, how, self.now, bytes_to_client=1, bytes_to_connector=2)
        self.carry_out()

    @rule(name=st.sampled_from(NAMES), rule=st.sampled_from(["listener", "sender"]), again=st.booleans())
    def change_key(self, name: str, rule: str, again: bool) -> None:
        if again:
            self.store.regenerate_key(name, rule, KeySlot.PRIMARY)
        else:
            self.store.revoke_key(name, rule, KeySlot.PRIMARY)
        self.broker.update(
            StoreChange.between(self.broker.authorization.connections, self.store.snapshot()), self.now
        )
        self.carry_out()

    @rule(seconds=st.sampled_from([0.5, 5.0, LIFETIME]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.broker.expire(self.now)
        self.carry_out()

    # --- what holds at any time

    @invariant()
    def each_rendezvous_ends_once(self) -> None:
        assert not self.ends or max(self.ends.values()) == 1
        assert self.ends.keys() <= self.made.keys()
        running = len(self.made) - len(self.ends)
        # A pair that is being stopped because it was displaced has no place any more.
        assert running - len(self.stopping) <= len(self.pairs) - self.pairs.kept <= running
        assert self.table.open + self.table.joined == running

    @invariant()
    def nobody_exceeds_the_limits(self) -> None:
        assert len(self.pairs) <= PAIRS
        held = Counter(key for name, key in self.made.items() if not self.ends[name] and name not in self.stopping)
        assert not held or max(held.values()) <= PAIRS_OF_KEY
        for name in NAMES:
            assert len(self.broker.listeners.of(name)) <= 2

    @invariant()
    def a_listener_has_one_event_for_each_change(self) -> None:
        registered = {(one.connection, one.instance) for name in NAMES for one in self.broker.listeners.of(name)}
        assert {key for key, count in self.listener_events.items() if count} == registered
        assert set(self.listener_events.values()) <= {0, 1}

    def teardown(self) -> None:
        for ask in self.asks:
            self.broker.joins.cancel(ask, self.now)
        self.broker.shut_down(self.now)
        self.carry_out()
        assert self.stopping == set(self.moving)
        for name in list(self.moving):
            self.stop(name, Input.CANCELLED)
        assert self.ends == Counter(self.made.keys())
        assert self.table.open == self.table.joined == 0
        assert len(self.pairs) == self.pairs.kept
        self.now += KEPT_AFTER_BREAK_SECONDS
        assert len(self.pairs) == 0
        assert self.broker.next_deadline() is None


TestBrokerMachine = BrokerMachine.TestCase
TestBrokerMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
