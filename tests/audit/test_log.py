"""Records reach all sinks; a stream waits for its record; sinks that fail are reported once, and recover."""

from __future__ import annotations

import errno
import json
import shutil
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from hybridrelay.audit import AuditLog, NotRecordedError
from hybridrelay.audit import log as log_module
from hybridrelay.audit import writer as writer_module
from hybridrelay.audit.directory import AuditDirectory
from hybridrelay.audit.disk import Disk
from hybridrelay.audit.record import AUDITED_SUBJECTS, Record, SinkProblem, record_of
from hybridrelay.audit.sinks.files import FileSink
from hybridrelay.audit.sinks.sink import SinkKind
from hybridrelay.audit.source_limit import BURST
from hybridrelay.audit.writer import WAIT_SECONDS
from hybridrelay.errors import ConfigurationError
from hybridrelay.events import ConnectionStringReloaded, Event, EventStream, SessionEnded, StreamOpened, all_events
from hybridrelay.events.audit import (
    AuditCheckpoint,
    AuditRecordsLeftOut,
    AuditRecordsUnwritten,
    AuditSinkFailed,
    AuditSinkRestored,
)
from hybridrelay.events.claims import ClaimRefused, ClaimTakenAgain, ClaimUnknown
from hybridrelay.events.plain_log import plainly_logged_events
from hybridrelay.events.relay import ListenerRegistered
from hybridrelay.protocol.reasons import Reason

from ..events.examples import example
from ..waiting import async_wait_until
from .test_directory import Clock, checked, lines_in


class Recorder:
    """A sink that a test lets fail, or hang."""

    tick_seconds: float | None = None
    notices_loss = True

    def __init__(self, kind: SinkKind = SinkKind.JOURNAL) -> None:
        self.kind = kind
        self.name = str(kind)
        self.batches: list[list[Record]] = []
        self.error: Exception | None = None
        #: Cleared while writing hangs.
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.is_closed = False
        #: How often it was to write.
        self.attempts = 0

    @property
    def events(self) -> list[str]:
        return [record.event for batch in self.batches for record in batch]

    def open(self) -> Sequence[Event]:
        return ()

    def write(self, records: Sequence[Record]) -> Sequence[Event]:
        self.goes_on.wait()
        self.attempts += 1
        if self.error is not None:
            raise self.error
        assert not self.is_closed
        self.batches.append(list(records))
        return ()

    def tick(self) -> Sequence[Event]:
        return ()

    def close(self) -> None:
        self.is_closed = True


def opened(number: int = 1) -> StreamOpened:
    return StreamOpened(connection="orders", activity_id=f"ab-{number}", session="ab", stream=number)


class Scene:
    """An audit log that is open."""

    def __init__(self, *sinks: Recorder | FileSink, required: Sequence[SinkKind] = ()) -> None:
        self.published: list[Event] = []
        self.events = EventStream(self.published.append)
        self.log = AuditLog(sinks, required=required)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with self.log.opened(self.events):
            yield

    def of(self, kind: type[Event]) -> list[Event]:
        return [one for one in self.published if isinstance(one, kind)]


async def _without_thread(function: Callable[..., object], *arguments: object, **_: object) -> object:
    await trio.lowlevel.checkpoint()
    return function(*arguments)


async def eventually(condition: Callable[[], bool]) -> None:
    async def is_true() -> bool:
        return condition()

    await async_wait_until(is_true, seconds=10, what="what the test waits for")


class TestRecords:
    """Which events are recorded."""

    def test_those_of_streams_sessions_registrations_policy_and_keys(self) -> None:
        recorded = {event.name for event in all_events() if record_of(example(event), 0.0) is not None}

        assert {
            "stream.opened", "stream.not-connected", "stream.closed", "stream.still-open",
            "session.opened", "session.resumed", "session.ended", "session.refused",
            "registration.succeeded", "registration.ended", "registration.refused",
            "deny-list.loaded", "policy.refused", "policy.not-reloaded",
            "key.in-use", "key.changed", "key.revoked", "connection-string.reloaded", "configuration.reloaded",
            "management.called",
            "program.started", "program.stopping", "program.stopped",
        } <= recorded  # fmt: skip
        assert not {"token.invalid", "management.authentication-failed", "unauthenticated.closed"} & recorded

    def test_attempts_to_take_a_claim_that_can_be_repeated_without_end_are_not(self) -> None:
        """Strangers, and anyone with a used code, could fill the disk with them."""
        taken = ClaimTakenAgain(connection="orders", claim="ab" * 16, peer="192.0.2.1", taken_at=1.0, taken_by="x")
        refused = ClaimRefused(connection="orders", claim="ab" * 16, peer="192.0.2.1", reason=Reason.CLAIM_TAKEN)
        assert record_of(taken, 0.0) is not None
        assert record_of(ClaimUnknown(peer="192.0.2.1"), 0.0) is None
        assert record_of(refused, 0.0) is None

    def test_every_subject_exists_or_is_reserved(self) -> None:
        subjects = {event.name.partition(".")[0] for event in all_events()}
        assert AUDITED_SUBJECTS - subjects <= {"claim"}

    def test_no_event_has_a_field_that_every_line_has(self) -> None:
        for event in all_events():
            record = record_of(example(event), 0.0)
            assert record is None or not {"seq", "prev", "at", "event"} & record.fields.keys()


class TestSinks:
    """All sinks get all records."""

    async def test_in_order_and_before_the_end(self) -> None:
        one, two = Recorder(), Recorder(SinkKind.SYSLOG)
        scene = Scene(one, two)
        async with scene.open():
            for number in range(100):
                scene.events.publish(opened(number))
            scene.events.publish(SessionEnded(connection="orders", reason=Reason.NO_ERROR))

        assert one.events == two.events == ["stream.opened"] * 100 + ["session.ended"]
        streams = [record.fields.get("stream") for batch in one.batches for record in batch]
        assert streams == [*range(100), None]
        assert one.is_closed
        assert two.is_closed

    async def test_what_is_only_in_the_log_is_recorded_too_from_any_thread(self) -> None:
        sink = Recorder()
        event = ConnectionStringReloaded(file="orders.connector", changed=("key",))
        async with Scene(sink).open():
            plainly_logged_events().publish(event)
            await trio.to_thread.run_sync(lambda: plainly_logged_events().publish(event))
            await trio.testing.wait_all_tasks_blocked(0.01)
        plainly_logged_events().publish(event)
        assert sink.events == ["connection-string.reloaded"] * 2

    async def test_records_are_written_together(self) -> None:
        sink = Recorder()
        scene = Scene(sink)
        async with scene.open():
            for number in range(100):
                scene.events.publish(opened(number))
            await eventually(lambda: len(sink.events) == 100)
            assert len(sink.batches) == 1

    async def test_peers_of_one_hybrid_connection_cannot_fill_it(
        self, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
    ) -> None:
        monkeypatch.setattr(writer_module, "run_in_thread", _without_thread)
        one, two = Recorder(), Recorder(SinkKind.SYSLOG)
        scene = Scene(one, two)
        flood = ListenerRegistered(connection="orders", instance="a" * 32)
        async with scene.open():
            for _ in range(3 * BURST):
                scene.events.publish(flood)
            scene.events.publish(opened())
            await trio.sleep(61)
            assert scene.of(AuditRecordsLeftOut) == [AuditRecordsLeftOut(connection="orders", records=2 * BURST)]
            for _ in range(2 * BURST):
                scene.events.publish(flood)

        assert one.events == two.events
        counts = Counter(one.events)
        assert counts["audit.records-left-out"] == 2
        assert counts["stream.opened"] == 1
        assert BURST < counts["listener.registered"] < 3 * BURST
        told = sum(event.records for event in scene.of(AuditRecordsLeftOut) if isinstance(event, AuditRecordsLeftOut))
        assert counts["listener.registered"] + told == 5 * BURST

    async def test_one_that_hangs_delays_no_other_and_not_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(log_module, "_FINISH_SECONDS", 1.0)
        hanging, other = Recorder(), Recorder(SinkKind.SYSLOG)
        hanging.goes_on.clear()
        scene = Scene(hanging, other)
        async with scene.open():
            scene.events.publish(opened())
            await eventually(lambda: bool(other.events))
        await eventually(lambda: other.is_closed)
        hanging.goes_on.set()

    async def test_a_required_kind_has_to_be_there(self) -> None:
        with pytest.raises(ConfigurationError, match="an audit log in file and syslog is required"):
            AuditLog([Recorder()], required=[SinkKind.FILE, SinkKind.JOURNAL, SinkKind.SYSLOG])


class TestWaiting:
    """What happens before a target is dialed."""

    async def test_a_required_sink_has_the_record_first(self) -> None:
        sink = Recorder()
        scene = Scene(sink, required=[SinkKind.JOURNAL])
        async with scene.open():
            scene.events.publish(opened())
            await scene.log.wait_recorded()
            assert sink.events == ["stream.opened"]

    async def test_the_policy_may_require_further_sinks(self) -> None:
        sink, loses = Recorder(), Recorder(SinkKind.SYSLOG)
        loses.notices_loss = False
        scene = Scene(sink, loses)
        async with scene.open():
            scene.events.publish(opened())
            scene.log.require(["journal"])
            await scene.log.wait_recorded()
            assert sink.events == ["stream.opened"]
            for kind in ("file", "syslog"):
                scene.log.require([kind, "journal"])
                (problem,) = scene.log.problems
                assert problem == SinkProblem.missing(kind)
                assert problem.text.startswith(f"the audit log lacks the required sink {kind}: ")
                assert "--audit-dir for file, --audit-to for the others" in problem.remedy
                with pytest.raises(NotRecordedError, match=f"the policy requires an audit log in {kind}"):
                    await scene.log.wait_recorded()
            scene.log.require(["journal"])
            sink.error = OSError(errno.EIO, "Input/output error")
            scene.events.publish(opened())
            with pytest.raises(NotRecordedError, match="Input/output error"):
                await scene.log.wait_recorded()
            assert scene.log.problems == (SinkProblem("journal", "Input/output error", True),)
            scene.log.require([])  # the policy has changed: the status shows it before the next stream
            assert scene.log.problems == (SinkProblem("journal", "Input/output error", False),)
            await scene.log.wait_recorded()
            sink.error = None

    async def test_others_are_not_waited_for(self) -> None:
        sink = Recorder()
        sink.goes_on.clear()
        scene = Scene(sink)
        async with scene.open():
            scene.events.publish(opened())
            await scene.log.wait_recorded()
            assert sink.events == []
            sink.goes_on.set()

    async def test_streams_wait_for_the_disk_together(self) -> None:
        sink = Recorder()
        scene = Scene(sink, required=[SinkKind.JOURNAL])
        sink.goes_on.clear()
        done = []

        async def open_stream(number: int) -> None:
            scene.events.publish(opened(number))
            await scene.log.wait_recorded()
            done.append(number)

        async with scene.open(), trio.open_nursery() as nursery:
            nursery.start_soon(open_stream, 0)
            await trio.testing.wait_all_tasks_blocked(0.3)  # the first is being written
            for number in range(1, 50):
                nursery.start_soon(open_stream, number)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert done == []
            sink.goes_on.set()
        assert sorted(done) == list(range(50))
        assert [len(batch) for batch in sink.batches] == [1, 49]

    async def test_a_sink_that_fails_refuses_and_says_so_once_and_recovers(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writer_module, "_RETRY_SECONDS", (0.01,))
        sink = Recorder()
        scene = Scene(sink, required=[SinkKind.JOURNAL])
        async with scene.open():
            sink.error = OSError(errno.ENOSPC, "No space left on device", "/var/audit")
            for number in range(3):
                scene.events.publish(opened(number))
                with pytest.raises(NotRecordedError, match="journal: No space left on device: /var/audit"):
                    await scene.log.wait_recorded()
            attempts = sink.attempts
            await eventually(lambda: sink.attempts > attempts + 3)
            (failed,) = scene.of(AuditSinkFailed)
            assert isinstance(failed, AuditSinkFailed)
            assert failed.required
            problem = SinkProblem("journal", "No space left on device: /var/audit", is_required=True)
            assert list(scene.log.problems) == [problem]

            sink.error = None
            await eventually(lambda: bool(scene.of(AuditSinkRestored)))
            scene.events.publish(opened(3))
            await scene.log.wait_recorded()
            assert not scene.log.problems
        assert [one for one in sink.events if one == "stream.opened"] == ["stream.opened"] * 4
        assert {"audit.sink-failed", "audit.sink-restored"} <= set(sink.events)

    async def test_one_that_hangs_is_given_up(self, mock_clock: trio.testing.MockClock) -> None:
        sink = Recorder()
        scene = Scene(sink, required=[SinkKind.JOURNAL])
        sink.goes_on.clear()
        async with scene.open(), trio.open_nursery() as nursery:
            scene.events.publish(opened())

            async def wait() -> None:
                with pytest.raises(NotRecordedError, match="has not answered for 5 s"):
                    await scene.log.wait_recorded()

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked(0.05)
            mock_clock.jump(WAIT_SECONDS)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert scene.log.problems
            await wait_refused(scene)
            sink.goes_on.set()
            while scene.log.problems:
                await trio.testing.wait_all_tasks_blocked(0.01)

    async def test_too_many_records_are_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(writer_module, "_RETRY_SECONDS", (0.01,))
        monkeypatch.setattr(writer_module, "MAX_WAITING", 10)
        sink = Recorder()
        sink.error = OSError(errno.EIO, "Input/output error")
        scene = Scene(sink)
        async with scene.open():
            for number in range(30):
                scene.events.publish(opened(number))
            await eventually(lambda: bool(scene.log.problems))
            sink.error = None
            await eventually(lambda: "audit.records-lost" in sink.events)
        (lost,) = [record for batch in sink.batches for record in batch if record.event == "audit.records-lost"]
        assert lost.fields["records"] == 21  # with the event of the failure

    @pytest.mark.parametrize("how", ["it fails", "it hangs", "it works"])
    async def test_what_is_not_written_at_the_end_is_said(self, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(log_module, "_FINISH_SECONDS", 0.05 if how == "it hangs" else 60.0)
        sink = Recorder()
        scene = Scene(sink)
        if how == "it fails":
            sink.error = OSError(errno.EIO, "Input/output error")
        elif how == "it hangs":
            sink.goes_on.clear()
        async with scene.open():
            for number in range(3):
                scene.events.publish(opened(number))
            if how == "it fails":
                await eventually(lambda: bool(scene.log.problems))
        sink.goes_on.set()
        lost = [event for event in scene.published if isinstance(event, AuditRecordsUnwritten)]
        # The event of the failure is one of the records.
        assert [event.records for event in lost] == {"it fails": [4], "it hangs": [3], "it works": []}[how]

    async def test_nothing_is_recorded_before_it_is_open(self) -> None:
        with pytest.raises(NotRecordedError, match="not open"):
            await Scene(Recorder(), required=[SinkKind.JOURNAL]).log.wait_recorded()


class TestOtherSinksWhileTheProgramRuns:
    async def test_one_continues_one_begins_and_one_ends(self) -> None:
        stays, ends, begins = Recorder(), Recorder(SinkKind.SYSLOG), Recorder(SinkKind.EVENT_LOG)
        scene = Scene(stays, ends)
        async with scene.open():
            scene.events.publish(opened(1))
            await scene.log.use([stays, begins], required=[SinkKind.EVENT_LOG])
            assert ends.events == ["stream.opened", "audit.sink-removed"]
            assert ends.is_closed
            scene.events.publish(opened(2))
            await scene.log.wait_recorded()
            assert begins.events == ["stream.opened"]
        assert stays.events == ["stream.opened", "audit.sink-removed", "stream.opened"]
        assert ends.events == ["stream.opened", "audit.sink-removed"]

    async def test_a_first_one_and_none(self) -> None:
        first = Recorder()
        scene = Scene()
        async with scene.open():
            assert not scene.log.has_sinks
            scene.events.publish(opened(1))
            await scene.log.wait_recorded()
            await scene.log.use([first])
            scene.events.publish(opened(2))
            await scene.log.use([])
            scene.events.publish(opened(3))
            await scene.log.wait_recorded()
        assert first.events == ["stream.opened", "audit.sink-removed"]

    async def test_one_that_cannot_be_used_changes_nothing(self) -> None:
        class Unusable(Recorder):
            def open(self) -> Sequence[Event]:
                raise ConfigurationError("this is unusable")

        before, good, bad = Recorder(), Recorder(), Unusable()
        scene = Scene(before, required=[SinkKind.JOURNAL])
        async with scene.open():
            with pytest.raises(ConfigurationError, match="this is unusable"):
                await scene.log.use([good, bad])
            with pytest.raises(ConfigurationError, match="an audit log in file is required"):
                await scene.log.use([good], required=[SinkKind.FILE])
            assert good.is_closed
            scene.events.publish(opened())
            await scene.log.wait_recorded()
        assert before.events == ["stream.opened"]
        assert good.events == []

    async def test_before_it_is_open(self) -> None:
        one = Recorder()
        scene = Scene()
        await scene.log.use([one])
        async with scene.open():
            scene.events.publish(opened())
        assert one.events == ["stream.opened"]


async def wait_refused(scene: Scene) -> None:
    """A stream that comes while the sink is known to hang is refused at once."""
    scene.events.publish(opened(2))
    with pytest.raises(NotRecordedError):
        await scene.log.wait_recorded()


class TestFiles:
    """With an audit directory."""

    def make(self, directory: Path, clock: Clock, max_bytes: int = 1 << 20) -> FileSink:
        return FileSink(AuditDirectory(Disk(directory), clock=clock, max_bytes=max_bytes), str(directory))

    async def test_a_record_is_on_the_disk_before_the_target_is_dialed(self, tmp_path: Path) -> None:
        scene = Scene(self.make(tmp_path, Clock()))
        async with scene.open():
            scene.events.publish(opened())
            await scene.log.wait_recorded()
            names = [path for path in tmp_path.iterdir() if path.name.startswith("audit-")]
            assert b'"stream.opened","connection":"orders","activity_id":"ab-1"' in names[0].read_bytes()
        assert checked(tmp_path).notes == ()

    async def test_under_load_with_changes_of_the_file(self, tmp_path: Path) -> None:
        scene = Scene(self.make(tmp_path, Clock(), max_bytes=20_000))

        async def open_streams(worker: int) -> None:
            for number in range(20):
                scene.events.publish(opened(worker * 100 + number))
                await scene.log.wait_recorded()

        async with scene.open(), trio.open_nursery() as nursery:
            for worker in range(20):
                nursery.start_soon(open_streams, worker)
        verdict = checked(tmp_path)
        assert len(verdict.files) > 3
        assert verdict.notes == ()
        assert len(numbers_of_streams(tmp_path)) == 400

    async def test_other_sinks_get_the_heads(self, tmp_path: Path) -> None:
        other = Recorder()
        scene = Scene(self.make(tmp_path, Clock()), other)
        async with scene.open():
            for number in range(300):
                scene.events.publish(opened(number))
            await scene.log.wait_recorded()
        *_, checkpoint = scene.of(AuditCheckpoint)
        assert isinstance(checkpoint, AuditCheckpoint)
        assert checkpoint.last >= 255
        assert "audit.checkpoint" in other.events
        assert b"audit.checkpoint" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())

    async def test_a_full_disk_that_is_not_required_refuses_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writer_module, "_RETRY_SECONDS", (0.01,))
        sink = self.make(tmp_path, Clock())
        scene = Scene(sink)
        async with scene.open():
            real = sink.directory.append
            full = OSError(errno.ENOSPC, "No space left on device")

            def fails(_: object) -> object:
                raise full

            monkeypatch.setattr(sink.directory, "append", fails)
            scene.events.publish(opened(1))
            await scene.log.wait_recorded()
            assert scene.log.problems
            monkeypatch.setattr(sink.directory, "append", real)
            await eventually(lambda: not scene.log.problems)
        assert len(numbers_of_streams(tmp_path)) == 1

    async def test_no_stream_is_opened_without_a_record_after_the_files_were_deleted(self, tmp_path: Path) -> None:
        directory = tmp_path / "audit"
        scene = Scene(self.make(directory, Clock()), required=[SinkKind.FILE])
        async with scene.open():
            scene.events.publish(opened(1))
            await scene.log.wait_recorded()
            shutil.rmtree(directory)
            for number in (2, 3):
                scene.events.publish(opened(number))
                with pytest.raises(NotRecordedError, match="were deleted or moved while the log was open"):
                    await scene.log.wait_recorded()
            (failed,) = scene.of(AuditSinkFailed)
            assert isinstance(failed, AuditSinkFailed)
            assert failed.required
            assert "restart the program" in failed.remedy
        assert not directory.exists()


def numbers_of_streams(directory: Path) -> list[int]:
    files = lines_in(directory)
    contents = [json.loads(line) for name in sorted(files) for line in files[name]]
    return [one["stream"] for one in contents if one["event"] == "stream.opened"]
