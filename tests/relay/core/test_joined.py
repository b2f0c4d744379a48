"""Which rendezvous are in the file, and which of them the next main process reports as lost."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hybridrelay.relay.core import joined
from hybridrelay.relay.core.joined import JoinedRendezvous
from hybridrelay.relay.joined import Batch, Entry

TAKING = joined._TAKING_SECONDS


def entry(id_: str = "1", *, joined_at: float = 5.0, keep: float = 60.0) -> Entry:
    return Entry(id_, "db", joined_at, keep)


def test_a_rendezvous_is_saved_from_its_beginning_to_its_end() -> None:
    machine = JoinedRendezvous(60.0)
    states = [(machine.is_empty, machine.has_changed)]
    machine.joined("1", "db", 5.0)
    states.append((machine.is_empty, machine.has_changed))
    assert states == [(True, False), (False, True)]
    assert machine.take() == Batch((entry(),))
    assert machine.take() == Batch()
    machine.ended("1")
    assert machine.take() == Batch((), ("1",))
    assert machine.is_empty


def test_the_end_of_one_that_was_never_joined_changes_nothing() -> None:
    machine = JoinedRendezvous(60.0)
    machine.ended("1")
    assert not machine.has_changed


@pytest.mark.parametrize(("keep", "patience"), [(60.0, 60.0 + TAKING), (0.0, 0.0)])
def test_what_no_worker_has_any_more_is_lost(keep: float, patience: float) -> None:
    machine = JoinedRendezvous(1.0)
    machine.restore([left := entry(keep=keep)], 100.0)
    assert not machine.is_empty
    assert machine.next_loss() == 100.0 + patience
    assert machine.lost(100.0 + patience - 0.1) == []
    assert machine.lost(100.0 + patience) == [left]
    machine.ended("1")
    assert machine.next_loss() is None
    assert machine.lost(1e9) == []
    assert machine.take() == Batch((), ("1",))


@pytest.mark.parametrize("takes_over_first", [True, False])
def test_what_was_taken_over_is_not_lost_and_is_kept_with_its_time(takes_over_first: bool) -> None:
    machine = JoinedRendezvous(30.0)
    if takes_over_first:
        machine.joined("1", "db", 90.0)
    machine.restore([entry()], 100.0)
    if not takes_over_first:
        machine.joined("1", "db", 90.0)
    assert machine.next_loss() is None
    assert machine.take() == Batch((entry(keep=30.0),))


def test_what_has_ended_before_the_file_could_be_read_is_not_lost() -> None:
    machine = JoinedRendezvous(30.0)
    machine.joined("1", "db", 90.0)
    machine.ended("1")
    machine.restore([entry()], 100.0)
    assert machine.next_loss() is None
    assert machine.take() == Batch((), ("1",))


def test_what_could_not_be_saved_is_saved_the_next_time() -> None:
    machine = JoinedRendezvous(60.0)
    machine.joined("1", "db", 5.0)
    machine.joined("2", "db", 5.0)
    machine.take()
    machine.ended("1")
    machine.joined("3", "db", 5.0)
    batch = machine.take()
    machine.ended("3")
    machine.put_back(batch)
    again = machine.take()
    assert not again.put
    assert sorted(again.delete) == ["1", "3"]


def test_if_too_much_has_changed_everything_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joined, "_MAX_CHANGED", 3)
    machine = JoinedRendezvous(60.0)
    machine.restore([left := entry("f")], 0.0)
    for number in range(4):
        machine.joined(str(number), "db", 5.0)
    machine.ended("1")
    batch = machine.take()
    assert batch.is_whole
    assert {one.id for one in batch.put} == {"0", "2", "3", "f"}
    assert left in batch.put
    machine.put_back(batch)
    assert machine.take() == batch


class Relays(RuleBasedStateMachine):
    """Relays that are killed at any moment, one after the other: nothing is reported twice, and all that was saved is
    reported once."""

    def __init__(self) -> None:
        super().__init__()
        self.when = 0.0
        self.next_id = 0
        self.file: dict[str, Entry] = {}
        #: What a worker has, or the main process.
        self.alive: set[str] = set()
        self.reported: list[str] = []
        self.machine = JoinedRendezvous(60.0)

    @rule()
    def join(self) -> None:
        self.next_id += 1
        self.alive.add(str(self.next_id))
        self.machine.joined(str(self.next_id), "db", self.when)
        self.save(fails=False)

    @rule(fails=st.booleans())
    def save(self, fails: bool) -> None:
        batch = self.machine.take()
        if fails:
            self.machine.put_back(batch)
            return
        if batch.is_whole:
            self.file.clear()
        for one in batch.delete:
            self.file.pop(one, None)
        self.file.update({one.id: one for one in batch.put})

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self._end(data.draw(st.sampled_from(sorted(self.alive))))
        self.save(fails=False)

    def _end(self, id_: str) -> None:
        self.alive.discard(id_)
        self.reported.append(id_)
        self.machine.ended(id_)

    @rule(data=st.data())
    def restart(self, data: st.DataObject) -> None:
        self.machine = JoinedRendezvous(60.0)
        self.machine.restore(list(self.file.values()), self.when)
        kept = data.draw(st.sets(st.sampled_from(sorted(self.alive)))) if self.alive else set()
        self.alive = set()
        for one in kept:
            self.alive.add(one)
            self.machine.joined(one, "db", self.when)
        self.save(fails=False)

    @rule(seconds=st.floats(0, 200))
    def wait(self, seconds: float) -> None:
        self.when += seconds
        for one in self.machine.lost(self.when):
            self._end(one.id)
        self.save(fails=False)

    @invariant()
    def reported_once(self) -> None:
        assert len(self.reported) == len(set(self.reported))
        assert not set(self.reported) & self.alive

    def teardown(self) -> None:
        self.alive.clear()
        self.machine = JoinedRendezvous(60.0)
        self.machine.restore(list(self.file.values()), self.when)
        self.wait(1000.0)
        assert sorted(map(int, self.reported)) == list(range(1, self.next_id + 1))


TestRelays = Relays.TestCase
TestRelays.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
