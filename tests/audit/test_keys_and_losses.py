"""Keys that are no longer needed are overwritten, and a stream does not begin if its own record was lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from hybridrelay.audit import writer as writer_module
from hybridrelay.audit.directory import DAY_SECONDS, AuditDirectory
from hybridrelay.audit.disk import Disk
from hybridrelay.audit.writer import SinkWriter
from hybridrelay.events import EventStream

from ..waiting import async_wait_until
from .test_directory import Clock, checked, records
from .test_log import Recorder


def test_the_key_of_a_file_that_has_ended_is_no_longer_on_the_disk(tmp_path: Path) -> None:
    """Otherwise, somebody who finds it there could sign other lines for that file."""
    clock = Clock()
    directory = AuditDirectory(Disk(tmp_path / "audit"), clock=clock)
    directory.open()
    directory.append(records(1))
    # Another name of the same file, which stays when the first name is given to the next key.
    os.link(tmp_path / "audit" / "signing.key", tmp_path / "earlier")
    earlier = (tmp_path / "earlier").read_bytes()
    assert earlier.strip(b"\0")
    clock.now += DAY_SECONDS
    directory.append(records(2))
    assert (tmp_path / "earlier").read_bytes() == bytes(len(earlier))
    assert (tmp_path / "audit" / "signing.key").read_bytes() not in (earlier, bytes(len(earlier)))
    directory.close()
    assert len(checked(tmp_path / "audit").files) == 2


async def test_a_record_that_was_lost_does_not_count_as_written(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "MAX_WAITING", 3)
    sink = Recorder()
    writer = SinkWriter(sink, is_required=True, events=EventStream(), clock=lambda: 0.0)
    await nursery.start(writer.run)
    sink.goes_on.clear()
    for record in records(1, 2, 3):
        writer.put(record)
    done = trio.Event()

    async def wait(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await writer.wait_written()
        assert "audit.records-lost" in sink.events
        done.set()

    async def hangs() -> bool:
        return writer._busy.locked()

    await async_wait_until(hangs, seconds=60, what="the first batch")
    writer.put(records(4)[0])  # there is no place for it
    await nursery.start(wait)
    sink.goes_on.set()
    with trio.fail_after(60):
        await done.wait()
    assert sink.events == ["stream.opened"] * 3 + ["audit.records-lost"]
    nursery.cancel_scope.cancel()
