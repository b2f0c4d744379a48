"""The size of an audit directory: the oldest files are deleted, and the log says so."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from hybridrelay.audit import directory as directory_module
from hybridrelay.audit.chain import file_name
from hybridrelay.audit.directory import AuditDirectory
from hybridrelay.audit.ended import EARLIER_KEYS
from hybridrelay.audit.reading import verify_directory
from hybridrelay.audit.verification import BadLine

from .faults import FaultyDisk, Killed, repeating
from .test_directory import Clock, clock, directory_key, lines_in, make, numbers_in, records, size_of

__all__ = ["clock"]

#: Room for some files of 2 KB each, beside what is kept free.
LIMIT = 60_000


pytestmark = pytest.mark.usefixtures("no_waiting")


def contents(directory: Path, event: str) -> list[dict[str, object]]:
    files = lines_in(directory)
    found = [json.loads(line) for name in sorted(files) for line in files[name] if line.endswith(b"\n")]
    return [one for one in found if one["event"] == event]


class TestLimit:
    """What is deleted, and what is said about it."""

    @pytest.mark.parametrize("compressed", [False, True])
    def test_the_directory_never_exceeds_it(self, tmp_path: Path, clock: Clock, compressed: bool) -> None:
        directory = make(tmp_path, clock, max_bytes=2000, max_total=LIMIT)
        directory.open()
        for number in range(0, 600, 3):
            directory.append(records(number, number + 1, number + 2))
            assert size_of(tmp_path) <= LIMIT
            while compressed and directory.compress_next():
                assert size_of(tmp_path) <= LIMIT
        directory.close()

        left = numbers_in(tmp_path)
        assert 20 < len(left) < 300
        assert left == list(range(left[0], 600))
        verdict = verify_directory(tmp_path)
        assert verdict.deleted > 100
        assert verdict.deleted_for == ("size",)

    def test_a_batch_that_is_larger_than_a_file(self, tmp_path: Path, clock: Clock) -> None:
        directory = make(tmp_path, clock, max_bytes=1000, max_total=400_000)
        directory.open()
        for number in range(0, 3000, 100):
            directory.append(records(*range(number, number + 100)))
            assert size_of(tmp_path) <= 400_000
        assert contents(tmp_path, "log.deleted")
        verify_directory(tmp_path)

    def test_a_file_ends_earlier_in_a_small_directory(self, tmp_path: Path, clock: Clock) -> None:
        directory = make(tmp_path, clock, max_total=80_000)
        directory.open()
        for number in range(200):
            directory.append(records(number))
        assert max(path.stat().st_size for path in tmp_path.glob("audit-*")) < 11_000

    def test_a_limit_that_is_lowered(self, tmp_path: Path, clock: Clock) -> None:
        directory = make(tmp_path, clock, max_bytes=2000)
        directory.open()
        for number in range(400):
            directory.append(records(number))
        directory.close()
        assert size_of(tmp_path) > LIMIT

        directory = make(tmp_path, clock, max_bytes=2000, max_total=LIMIT)
        directory.open()
        directory.append(records(400))
        assert size_of(tmp_path) <= LIMIT
        assert numbers_in(tmp_path)[-1] == 400
        verify_directory(tmp_path)

    def test_the_record_names_the_span(self, tmp_path: Path, clock: Clock) -> None:
        directory = make(tmp_path, clock, max_bytes=2000, max_total=LIMIT)
        directory.open()
        while not (deleted := contents(tmp_path, "log.deleted")):
            before = lines_in(tmp_path)
            directory.append(records(1))

        first = min(before)
        last = json.loads(before[first][-1])
        record = deleted[0]
        assert {name: record[name] for name in ("file", "first", "last", "reason")} == {
            "file": first,
            "first": 1,
            "last": last["seq"],
            "reason": "size",
        }
        assert "missing_from" not in record


class TestKeys:
    """The first key of a log verifies it after its file was deleted."""

    def deleting(self, path: Path, clock: Clock, limit: int = 160_000) -> AuditDirectory:
        directory = make(path, clock, max_bytes=1200, max_total=limit)
        directory.open()
        return directory

    def test_those_of_files_that_were_deleted(self, tmp_path: Path, clock: Clock) -> None:
        directory = self.deleting(tmp_path, clock)
        keys = {directory.key: None}
        for number in range(0, 1500, 3):
            directory.append(records(number, number + 1, number + 2))
            keys[directory.key] = None
            while directory.compress_next():
                pass
        verdict = verify_directory(tmp_path)
        assert verdict.deleted > 0
        deleted = len((tmp_path / EARLIER_KEYS).read_bytes().splitlines())
        assert deleted > 10
        usable = list(keys)[-len(verdict.files) - deleted :]
        for key in (usable[0], usable[deleted - 1], usable[deleted], usable[-1]):
            assert verify_directory(tmp_path, [key]).is_trusted

    def test_only_the_latest_are_kept(self, tmp_path: Path, clock: Clock) -> None:
        directory = self.deleting(tmp_path, clock, 40_000)
        keys = {directory.key: None}
        for number in range(400):
            directory.append(records(number))
            keys[directory.key] = None
        first, *_, last = keys
        kept = (tmp_path / EARLIER_KEYS).read_bytes()
        assert 0 < len(kept) <= 2500
        assert all(json.loads(line)["event"] == "log.continued" for line in kept.splitlines())
        with pytest.raises(BadLine, match="none of the given keys"):
            verify_directory(tmp_path, [first])
        assert verify_directory(tmp_path, [last]).is_trusted

    def test_lines_of_another_log_lead_nowhere(self, tmp_path: Path, clock: Clock) -> None:
        ours, theirs = tmp_path / "ours", tmp_path / "theirs"
        for path in (ours, theirs):
            directory = self.deleting(path, clock)
            key = directory.key
            for number in range(0, 600, 3):
                directory.append(records(number, number + 1, number + 2))
            directory.close()
        with pytest.raises(BadLine, match="none of the given keys"):
            verify_directory(ours, [key])
        (ours / EARLIER_KEYS).write_bytes((theirs / EARLIER_KEYS).read_bytes())
        with pytest.raises(BadLine, match="none of the given keys"):
            verify_directory(ours, [key])

    @pytest.mark.parametrize("damage", ["a line is missing", "a key is replaced", "nonsense", "not signed"])
    def test_a_changed_list_leads_nowhere(self, tmp_path: Path, clock: Clock, damage: str) -> None:
        directory = self.deleting(tmp_path, clock)
        key = directory.key
        for number in range(0, 600, 3):
            directory.append(records(number, number + 1, number + 2))
        path = tmp_path / EARLIER_KEYS
        lines = path.read_bytes().splitlines(keepends=True)
        assert len(lines) > 3
        if damage == "a line is missing":
            del lines[1]
        elif damage == "a key is replaced":
            content = json.loads(lines[1])
            content["new_key"] = str(directory.key)
            lines[1] = json.dumps(content).encode() + b"\n"
        elif damage == "nonsense":
            lines[1] = b'{"covers":{"seq":[]},"new_key":{}}\n\xff'
        else:
            lines[0] = lines[0].replace(b'"sig":"', b'"sig":"A')
        path.write_bytes(b"".join(lines))
        with pytest.raises(BadLine, match="none of the given keys"):
            verify_directory(tmp_path, [key])


class TestRemovalBySomebodyElse:
    """It is not covered up by the deletions of the log itself."""

    def test_files_that_were_removed_before(self, tmp_path: Path, clock: Clock) -> None:
        directory = make(tmp_path, clock, max_bytes=2000, max_total=LIMIT)
        directory.open()
        while len(lines_in(tmp_path)) < 5:
            directory.append(records(1))
        first, second = sorted(lines_in(tmp_path))[:2]
        (tmp_path / first).unlink()
        with pytest.raises(BadLine, match="are missing, and no signed record says"):
            verify_directory(tmp_path)
        while not contents(tmp_path, "log.deleted"):
            directory.append(records(1))

        assert contents(tmp_path, "log.deleted")[0]["file"] == second
        assert contents(tmp_path, "log.deleted")[0]["missing_from"] == 1
        with pytest.raises(BadLine, match="somebody has removed them"):
            verify_directory(tmp_path)

    @pytest.mark.parametrize("in_the_same_file", [False, True])
    def test_it_is_noticed_after_a_restart(self, tmp_path: Path, clock: Clock, in_the_same_file: bool) -> None:
        def deletions() -> int:
            return len(contents(tmp_path, "log.deleted"))

        directory = make(tmp_path, clock, max_bytes=2000, max_total=LIMIT)
        directory.open()
        while not deletions():
            directory.append(records(1))
        if not in_the_same_file:
            newest = max(lines_in(tmp_path))
            while max(lines_in(tmp_path)) == newest:
                directory.append(records(1))
        directory.close()
        before = deletions()
        again = make(tmp_path, clock, max_bytes=2000, max_total=LIMIT)
        again.open()
        while deletions() == before:
            again.append(records(1))
        assert not any("missing_from" in one for one in contents(tmp_path, "log.deleted"))
        again.close()

        oldest = min(lines_in(tmp_path))
        (tmp_path / oldest).unlink()
        before = deletions()
        third = make(tmp_path, clock, max_bytes=2000, max_total=LIMIT)
        third.open()
        while deletions() == before:
            third.append(records(1))
        missing = [one["missing_from"] for one in contents(tmp_path, "log.deleted") if "missing_from" in one]
        assert [file_name(int(str(one))) for one in missing] == [oldest]

    def test_a_damaged_file_does_not_keep_the_disk_from_being_protected(self, tmp_path: Path, clock: Clock) -> None:
        directory = make(tmp_path, clock, max_bytes=2000, max_total=LIMIT)
        directory.open()
        for number in range(100):
            directory.append(records(number))
        for name in sorted(lines_in(tmp_path))[:3]:
            (tmp_path / name).write_bytes(b"\0" * 100)
        for number in range(100, 500):
            directory.append(records(number))
        assert size_of(tmp_path) <= LIMIT
        assert numbers_in(tmp_path)[-1] == 499


def scenario(directory: AuditDirectory, written: list[int], *, retry: bool) -> None:
    """Write a file with each call, until files are deleted, and compress some."""

    repeat = repeating(retry=retry)
    repeat(directory.open)
    for number in range(0, 90, 10):
        repeat(directory.append, records(*range(number, number + 10)))
        written += range(number, number + 10)
        if number in (30, 60):
            repeat(directory.compress_next)
    directory.close()


FAULTS_LIMIT = 38_000


@pytest.mark.parametrize("how", ["error", "killed", "power"])
def test_a_failure_of_any_operation_while_files_are_deleted(tmp_path: Path, clock: Clock, how: str) -> None:
    number = 40  # earlier ones are tested without a limit
    has_deleted = 0
    while True:
        number += 1
        path = tmp_path / str(number)
        disk = FaultyDisk(path, number, how)
        written: list[int] = []
        directory = AuditDirectory(disk, clock=clock, max_bytes=1500, max_total=FAULTS_LIMIT)
        try:
            with contextlib.suppress(OSError):  # only `close` does not try again
                scenario(directory, written, retry=how == "error")
        except Killed:
            disk.unlock()
        if disk.operations < number:
            break
        assert size_of(path) <= FAULTS_LIMIT, number
        if how != "error":
            again = make(path, clock, max_bytes=1500, max_total=FAULTS_LIMIT)
            again.open()
            again.append(records(999))
            while again.compress_next():
                pass
            again.close()
            assert size_of(path) <= FAULTS_LIMIT, number
        left = numbers_in(path)
        if how != "error":
            assert left.pop() == 999
        assert left == list(range(left[0], left[-1] + 1)), number
        assert left[-1] >= written[-1], number
        verdict = verify_directory(path, [directory_key(path)])
        has_deleted += verdict.deleted > 0
        assert not any("missing_from" in one for one in contents(path, "log.deleted")), number
    assert has_deleted > 20


@contextlib.contextmanager
def limited_between_any_two_lines(directory: AuditDirectory, max_total: int) -> Iterator[None]:
    """As if another thread set the limits again, to the same values, before each line of the directory's methods."""

    def before_line(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != directory_module.__file__:
            return None
        directory.limit(keep_days=2, max_total=max_total)
        return before_line

    earlier = sys.gettrace()
    sys.settrace(before_line)
    try:
        yield
    finally:
        sys.settrace(earlier)


def test_the_limits_can_be_set_at_any_moment(tmp_path: Path, clock: Clock) -> None:
    """The program sets them in another thread than the one that writes."""
    directory = make(tmp_path, clock, keep_days=2, max_total=LIMIT)
    directory.open()
    with limited_between_any_two_lines(directory, LIMIT):
        for number in range(6):
            directory.append(records(number))
            clock.now += 86_400
            directory.tick()
    directory.close()
    assert numbers_in(tmp_path) == [4, 5]
    assert verify_directory(tmp_path).deleted_for == ("age",)
