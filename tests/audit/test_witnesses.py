"""Which relays have confirmed checkpoints, and at which pace they are sent them."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.audit.chain import Checkpoint
from hybridrelay.audit.record import SinkProblem
from hybridrelay.audit.witnesses import CONFIRM_SECONDS, Witnesses
from hybridrelay.audit.witnessing import PACE_SECONDS, Witnessing
from hybridrelay.errors import RelayUnreachable

A, B = "a.example.com", "b.example.com"


def checkpoint(seq: int) -> Checkpoint:
    return Checkpoint("0f" * 8, seq, f"{seq:064x}")


def names(*hosts: str) -> Callable[[str], bool]:
    return lambda host: host in hosts


class TestWitnesses:
    """The rules, without time passing by itself."""

    def test_only_the_latest_is_wanted(self) -> None:
        one = Witnesses()
        assert one.wanted(A, 0.0) is None
        one.signed(checkpoint(1), 0.0)
        one.signed(checkpoint(5), 1.0)
        assert one.wanted(A, 2.0) == checkpoint(5)
        one.confirmed(A, checkpoint(5), 3.0)
        assert one.wanted(A, 4.0) is None
        assert one.wanted(B, 4.0) == checkpoint(5)

    def test_a_relay_is_overdue_after_a_while_and_recovers(self) -> None:
        one = Witnesses()
        one.signed(checkpoint(1), 0.0)
        asks = [names(A)], [A, B]
        assert one.problems(*asks, 0.0) == ()
        one.signed(checkpoint(2), 200.0)  # does not give it more time
        assert one.problems(*asks, CONFIRM_SECONDS) == ()
        (problem,) = one.problems(*asks, CONFIRM_SECONDS + 1)
        assert problem == SinkProblem.not_confirmed(f"witness {A}", "it has not confirmed a checkpoint for 5 minutes")
        one.failed(A, "no room", CONFIRM_SECONDS + 2)
        assert one.problems(*asks, CONFIRM_SECONDS + 2)[0].detail == "no room"
        one.confirmed(A, checkpoint(2), CONFIRM_SECONDS + 3)
        assert one.problems(*asks, 10 * CONFIRM_SECONDS) == ()

    def test_a_confirmation_of_an_earlier_one_gives_time_and_no_more(self) -> None:
        one = Witnesses()
        one.signed(checkpoint(1), 0.0)
        assert one.wanted(A, 0.0)
        one.signed(checkpoint(2), 10.0)
        one.confirmed(A, checkpoint(1), 20.0)
        assert one.problems([names(A)], [A], 20 + CONFIRM_SECONDS) == ()
        assert one.problems([names(A)], [A], 21 + CONFIRM_SECONDS)

    def test_what_cannot_be_a_witness_is_a_problem_at_once(self) -> None:
        one = Witnesses()
        assert one.problems([], [A], 0.0) == ()
        (problem,) = one.problems([names(A)], [A], 0.0)
        assert "this program writes no audit directory" in problem.detail
        one.signed(checkpoint(1), 0.0)
        (problem,) = one.problems([names(A), names("elsewhere")], [A], 0.0)
        assert "this program uses none of them" in problem.detail

    def test_every_named_relay_that_is_used_has_to_confirm(self) -> None:
        one = Witnesses()
        one.signed(checkpoint(1), 0.0)
        for host in (A, B, "c"):
            assert one.wanted(host, 0.0)
        one.confirmed(A, checkpoint(1), 0.0)
        late = CONFIRM_SECONDS + 1
        assert [p.sink for p in one.problems([names(A, B, "other")], [A, B, "c"], late)] == [f"witness {B}"]
        assert one.problems([names(A)], [A, B, "c"], late) == ()

    def test_a_relay_that_is_new_has_as_much_time_as_any_other(self) -> None:
        one = Witnesses()
        one.signed(checkpoint(1), 0.0)
        assert one.problems([names(B)], [B], 10_000.0) == ()
        assert one.problems([names(B)], [B], 10_001.0 + CONFIRM_SECONDS)


@attrs.define
class Relay:
    """A relay that answers as the test wants."""

    why: str = ""
    error: Exception | None = None
    got: list[tuple[float, int]] = attrs.field(factory=list)

    async def send(self, one: Checkpoint) -> str:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        self.got.append((trio.current_time(), one.seq))
        return self.why


class TestSending:
    """The pace, in virtual time."""

    async def test_each_relay_gets_the_latest_at_its_pace(
        self, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        witnessing, relay, other = Witnessing(), Relay(), Relay()
        nursery.start_soon(witnessing.keep_sending, A, relay.send)
        nursery.start_soon(witnessing.keep_sending, B, other.send)
        begin = trio.current_time()
        for seq in range(1, 101):
            witnessing.signed(checkpoint(seq))
            await trio.sleep(1)
        await trio.sleep(1000)
        for one in (relay, other):
            assert [round(at - begin) for at, _ in one.got] == [0, 20, 40, 60, 80, 100]
            assert one.got[-1][1] == 100
        nursery.cancel_scope.cancel()

    async def test_after_a_failure_it_is_tried_again(
        self, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        witnessing, relay = Witnessing(), Relay(why="no room")
        witnessing.signed(checkpoint(1))
        begin = trio.current_time()
        nursery.start_soon(witnessing.keep_sending, A, relay.send)
        await trio.sleep(270)
        assert [round(at - begin) for at, _ in relay.got] == [0, 20, 80, 140, 200, 260]
        assert witnessing.witnesses.wanted(A, trio.current_time()) == checkpoint(1)
        relay.why = ""
        await trio.sleep(60)
        assert witnessing.witnesses.wanted(A, trio.current_time()) is None
        nursery.cancel_scope.cancel()

    async def test_over_several_channels_one_sends_and_another_follows(
        self, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        witnessing, first, second = Witnessing(), Relay(), Relay()
        witnessing.signed(checkpoint(1))

        async def until_lost() -> None:
            with pytest.raises(RelayUnreachable):
                await witnessing.keep_sending(A, first.send)

        nursery.start_soon(until_lost)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(witnessing.keep_sending, A, second.send)
        witnessing.signed(checkpoint(2))
        await trio.sleep(2 * PACE_SECONDS)
        assert ([seq for _, seq in first.got], second.got) == ([1, 2], [])
        first.error = RelayUnreachable("lost")
        witnessing.signed(checkpoint(3))
        await trio.sleep(2 * PACE_SECONDS)
        assert [seq for _, seq in second.got] == [3]
        nursery.cancel_scope.cancel()
