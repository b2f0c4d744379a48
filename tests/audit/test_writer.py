"""A caller that waits for records learns at once whether they were written, even if the sink is being closed."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing

from hybridrelay.audit import NotRecordedError
from hybridrelay.audit import writer as writer_module
from hybridrelay.audit.record import Record
from hybridrelay.audit.writer import SinkWriter
from hybridrelay.errors import ConfigurationError
from hybridrelay.events import Event, EventStream
from hybridrelay.events.audit import AuditSinkFailed, AuditSinkRestored

from ..waiting import async_wait_until
from .test_log import Recorder


class Scene:
    """A writer that runs, and its sink."""

    def __init__(self) -> None:
        self.published: list[Event] = []
        self.sink = Recorder()
        self.writer = SinkWriter(
            self.sink, is_required=True, events=EventStream(self.published.append), clock=lambda: 0.0
        )
        #: How the waiting has ended: None if the records were written.
        self.outcome: list[NotRecordedError | None] = []

    async def wait(self) -> None:
        try:
            await self.writer.wait_written()
        except NotRecordedError as exc:
            self.outcome.append(exc)
        else:
            self.outcome.append(None)

    async def is_closing(self) -> bool:
        return self.writer._is_closed

    async def wait_while_it_is_closed(self, error: Exception | None) -> None:
        """Close the sink, in which writing takes a while, and wait for a record in the meantime."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.writer.run)
            self.sink.goes_on.clear()
            self.sink.error = error
            self.writer.put(Record(0.0, "stream.opened"))
            async with trio.open_nursery() as both:
                both.start_soon(self.writer.finish)
                await async_wait_until(self.is_closing, seconds=60, what="the end to begin")
                both.start_soon(self.wait)
                await trio.testing.wait_all_tasks_blocked()
                self.sink.goes_on.set()
            nursery.cancel_scope.cancel()


async def test_what_the_end_writes_counts_as_written() -> None:
    scene = Scene()
    await scene.wait_while_it_is_closed(None)
    assert scene.sink.events == ["stream.opened"]
    assert scene.outcome == [None]
    assert scene.published == []


async def test_what_the_end_cannot_write_is_refused_at_once_with_the_reason() -> None:
    scene = Scene()
    await scene.wait_while_it_is_closed(OSError(errno.EIO, "Input/output error"))
    (error,) = scene.outcome
    assert str(error) == "Input/output error"
    assert len(scene.published) == 1


async def test_the_end_says_that_a_sink_that_had_failed_has_the_records() -> None:
    scene = Scene()
    scene.sink.error = OSError(errno.EIO, "Input/output error")
    async with trio.open_nursery() as nursery:
        await nursery.start(scene.writer.run)
        scene.writer.put(Record(0.0, "stream.opened"))
        await scene.wait()
        assert scene.outcome != [None]
        scene.sink.error = None
        await scene.writer.finish()
        nursery.cancel_scope.cancel()
    assert [type(one) for one in scene.published] == [AuditSinkFailed, AuditSinkRestored]
    assert scene.writer.sink_problem() is None


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.EIO, "Input/output error"), "free disk space"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (ConfigurationError("it is damaged", remedy="move its files"), "move its files"),
    ],
)
async def test_the_problem_of_a_sink_names_the_remedy_of_its_error(error: Exception, remedy: str) -> None:
    scene = Scene()
    scene.sink.error = error
    async with trio.open_nursery() as nursery:
        await nursery.start(scene.writer.run)
        scene.writer.put(Record(0.0, "stream.opened"))
        await scene.wait()
        nursery.cancel_scope.cancel()
    problem = scene.writer.sink_problem()
    assert problem is not None
    assert problem.text.startswith("the audit log cannot be written to journal: ")
    assert remedy in problem.remedy


async def test_what_was_lost_is_reported_after_everything_that_came_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not after the first batch, while older records still wait."""
    monkeypatch.setattr(writer_module, "MAX_WAITING", 5)
    monkeypatch.setattr(writer_module, "_BATCH", 2)
    scene = Scene()
    for _ in range(8):
        scene.writer.put(Record(0.0, "stream.opened"))
    async with trio.open_nursery() as nursery:
        await nursery.start(scene.writer.run)
        with trio.fail_after(60):
            await scene.writer.wait_written()
        nursery.cancel_scope.cancel()
    assert [len(batch) for batch in scene.sink.batches] == [2, 2, 2]
    assert scene.sink.events == ["stream.opened"] * 5 + ["audit.records-lost"]
    assert scene.sink.batches[-1][-1].fields["records"] == 3
