"""A relay reports the rendezvous that were lost together with the previous one, and nothing twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from hybridrelay.events.base import Event
from hybridrelay.events.relay import RendezvousEnded, RendezvousJoined, RendezvousKept, RendezvousTakenOver
from hybridrelay.events.relay_resources import StateFileNotWritten, StateFileSetAside, StateFileWritten
from hybridrelay.events.stream import EventStream
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.joined import _TAKING_SECONDS
from hybridrelay.relay.service.joined import JoinedService
from hybridrelay.relay.store.expendable import ExpendableFileError
from hybridrelay.relay.store.joined import JOINED_FILE, JoinedFile

from ...waiting import async_wait_until


def id_of(number: int) -> str:
    return f"{number:032x}"


@attrs.define(eq=False)
class Relay:
    """The service of one relay."""

    service: JoinedService
    stream: EventStream
    events: list[Event]
    directory: Path

    def joins(self, *numbers: int) -> None:
        for number in numbers:
            self.stream.publish(RendezvousJoined(connection="db", activity_id=id_of(number)))

    def ends(self, number: int) -> None:
        self.stream.publish(
            RendezvousEnded(
                connection="db", activity_id=id_of(number), outcome="finished", reason=Reason.NO_ERROR,
                bytes_to_client=1, bytes_to_connector=1, seconds=1.0,
            )
        )  # fmt: skip

    @property
    def lost(self) -> list[int]:
        return [
            int(event.activity_id, 16)
            for event in self.events
            if isinstance(event, RendezvousEnded) and event.outcome == "lost"
        ]

    async def saved(self, *numbers: int) -> None:
        """Wait until exactly these are in the file."""

        def read() -> list[int]:
            file = JoinedFile(self.directory)
            try:
                return [int(one.id, 16) for one in file.load().entries]
            finally:
                file.close()

        async def as_expected() -> bool:
            return await trio.to_thread.run_sync(read) == sorted(numbers)

        await async_wait_until(as_expected, seconds=60, what="it is saved")


@asynccontextmanager
async def relay(
    directory: Path, *, keep: float = 0.0, now: float = 1000.0, is_killed: bool = False
) -> AsyncIterator[Relay]:
    """Run the service during the block. At the end, it saves what has changed, unless the relay `is_killed`."""
    events: list[Event] = []
    stream = EventStream(events.append)
    service = JoinedService(directory, keep, clock=lambda: now, events=stream)
    one = Relay(service, stream, events, directory)

    async def run() -> None:
        await service.load()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run)
            yielded.set()
            await ends.wait()
            nursery.cancel_scope.cancel()

    yielded, ends = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        if is_killed:
            with stream.subscribed(service):
                nursery.start_soon(run)
                await yielded.wait()
                yield one
            service._file.close()
        else:
            async with service.subscribed():
                nursery.start_soon(run)
                await yielded.wait()
                yield one
        ends.set()


async def test_what_a_killed_relay_had_joined_is_reported_as_lost_once(tmp_path: Path) -> None:
    async with relay(tmp_path, now=1000.0, is_killed=True) as first:
        first.joins(1, 2, 3)
        first.ends(2)
        await first.saved(1, 3)
    async with relay(tmp_path, now=1007.5) as second:
        await second.saved()
        assert sorted(second.lost) == [1, 3]
        (event, _) = [one for one in second.events if isinstance(one, RendezvousEnded)]
        assert (event.connection, event.reason, event.bytes_to_client, event.bytes_to_connector) == (
            "db", Reason.SESSION_LOST, 0, 0,
        )  # fmt: skip
        assert event.seconds == pytest.approx(0.001)  # it was last seen when it was joined
    async with relay(tmp_path) as third:
        await third.saved()
        assert third.events == []


async def test_a_relay_that_stops_leaves_only_what_workers_keep(tmp_path: Path) -> None:
    async with relay(tmp_path, keep=60.0) as first:
        first.joins(1, 2)
        first.stream.publish(RendezvousKept(connection="db", activity_id=id_of(1)))
        first.ends(2)
    async with relay(tmp_path) as second:
        await second.saved(1)
        second.stream.publish(RendezvousTakenOver(connection="db", activity_id=id_of(1)))
        second.ends(1)
        await second.saved()
        assert second.lost == []


async def test_a_worker_has_time_to_find_the_relay(tmp_path: Path, mock_clock: MockClock) -> None:
    mock_clock.rate = 1.0
    async with relay(tmp_path, keep=60.0, is_killed=True) as first:
        first.joins(1, 2)
        await first.saved(1, 2)
    async with relay(tmp_path, keep=0.0) as second:
        mock_clock.jump(_TAKING_SECONDS)
        await trio.testing.wait_all_tasks_blocked()
        assert second.lost == []
        second.stream.publish(RendezvousTakenOver(connection="db", activity_id=id_of(1)))
        mock_clock.jump(61.0)
        await second.saved(1)
        assert second.lost == [2]
    async with relay(tmp_path) as third:
        await third.saved()  # the last relay kept nothing, so that this is known at once
        assert third.lost == [1]


async def test_a_damaged_file_is_replaced_and_what_is_joined_is_saved_again(tmp_path: Path) -> None:
    (tmp_path / JOINED_FILE).write_bytes(b"x" * 5000)
    async with relay(tmp_path, is_killed=True) as first:
        assert [type(event) for event in first.events] == [StateFileSetAside]
        first.joins(1)
        await first.saved(1)


async def test_a_file_that_is_damaged_later_gets_everything_that_is_joined(tmp_path: Path) -> None:
    async with relay(tmp_path, is_killed=True) as first:
        first.joins(1)
        await first.saved(1)
        async with first.service._limiter:  # not while it is written
            first.service._file.close()
            for path in tmp_path.iterdir():
                path.unlink()
            (tmp_path / JOINED_FILE).write_bytes(b"x" * 5000)
        first.joins(2)
        await async_wait_until(lambda: _has(first, StateFileSetAside), seconds=60, what="it is set aside")
        first.joins(3)
        await first.saved(1, 2, 3)


async def test_what_could_not_be_saved_is_saved_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ExpendableFileError("the disk is on fire", remedy="call the fire brigade")

    async with relay(tmp_path, is_killed=True) as first:
        with monkeypatch.context() as context:
            context.setattr(first.service._file, "save", fail)
            first.joins(1)
            await async_wait_until(lambda: _has(first, StateFileNotWritten), seconds=60, what="the failure")
        first.joins(2)
        await first.saved(1, 2)


async def test_a_relay_that_is_cancelled_saves_what_has_just_happened(tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        async with relay(tmp_path) as first:
            first.joins(1)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    async with relay(tmp_path) as second:
        await second.saved()
        assert second.lost == [1]


async def test_what_waits_for_its_thread_when_it_is_cancelled_is_saved_at_the_end(tmp_path: Path) -> None:
    stream = EventStream(lambda _: None)
    service = JoinedService(tmp_path, 0.0, clock=lambda: 1000.0, events=stream)

    async def was_taken() -> bool:
        return service._limiter.statistics().tasks_waiting > 0 and not service._machine.has_changed

    async with service.subscribed():
        await service.load()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run)
            async with service._limiter:
                stream.publish(RendezvousJoined(connection="db", activity_id=id_of(1)))
                await async_wait_until(was_taken, seconds=60, what="it waits for the thread")
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked()
    async with relay(tmp_path) as second:
        await second.saved()
        assert second.lost == [1]


async def test_a_file_that_cannot_be_used_is_reported_and_tried_again(tmp_path: Path) -> None:
    (tmp_path / JOINED_FILE).mkdir()
    async with relay(tmp_path) as first:
        assert [type(event) for event in first.events] == [StateFileNotWritten]
        assert first.service.problem is not None
        assert first.service.problem.code == "rendezvous"
        first.joins(1)
        (tmp_path / JOINED_FILE).rmdir()
        first.joins(2)
        await first.saved(1, 2)
        await async_wait_until(lambda: _has(first, StateFileWritten), seconds=60, what="the event")
        assert first.service.problem is None


async def _has(relay: Relay, type_: type[Event]) -> bool:
    return any(isinstance(event, type_) for event in relay.events)
