"""Audit files on a disk: they can be verified, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from hybridrelay.audit.chain import file_name, file_number
from hybridrelay.audit.directory import AuditDirectory, Opened
from hybridrelay.audit.disk import Disk
from hybridrelay.audit.keys import SigningKey, VerifyingKey
from hybridrelay.audit.record import Record
from hybridrelay.audit.verification import Verdict
from hybridrelay.errors import ConfigurationError

from .faults import FaultyDisk, Killed, repeating
from .lines import verify

pytestmark = pytest.mark.usefixtures("no_waiting")

NOON = 1_700_049_600.0


class Clock:
    """Seconds since 1970, which the test sets."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def records(*numbers: int) -> list[Record]:
    return [Record(NOON + one, "stream.opened", {"connection": "orders", "number": one}) for one in numbers]


def lines_in(directory: Path) -> dict[str, list[bytes]]:
    """The lines of all files, as a reader finds them."""
    found: dict[str, list[bytes]] = {}
    for path in directory.iterdir():
        if file_number(path.name) is not None:
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            found[path.name.removesuffix(".gz")] = data.splitlines(keepends=True)
    return found


def checked(directory: Path, *trusted: VerifyingKey) -> Verdict:
    return verify(lines_in(directory), trusted)


def numbers_in(directory: Path) -> list[int]:
    files = lines_in(directory)
    contents = [json.loads(line) for name in sorted(files) for line in files[name] if line.endswith(b"\n")]
    return [one["number"] for one in contents if one["event"] == "stream.opened"]


def events_in(directory: Path) -> list[str]:
    files = lines_in(directory)
    return [json.loads(line)["event"] for name in sorted(files) for line in files[name]]


def make(
    directory: Path, clock: Clock, *, max_bytes: int = 1 << 20, keep_days: float = 400, max_total: int | None = None
) -> AuditDirectory:
    return AuditDirectory(Disk(directory), clock=clock, max_bytes=max_bytes, keep_days=keep_days, max_total=max_total)


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


class TestWriting:
    """Without failures."""

    def test_a_new_log_is_signed_from_its_first_line_to_its_last(self, tmp_path: Path, clock: Clock) -> None:
        path = tmp_path / "audit"
        directory = make(path, clock)
        opened = directory.open()
        directory.append(records(1, 2))
        directory.close()

        assert opened == Opened(directory_key(path), is_new=True, removed_bytes=0, unsigned_from=None)
        assert events_in(path) == [
            "log.opened", "log.checkpoint", "stream.opened", "stream.opened", "log.closed", "log.checkpoint"
        ]  # fmt: skip
        verdict = checked(path, opened.key)
        assert (verdict.signed_up_to, verdict.end.seq, verdict.is_trusted) == (5, 6, True)

    def test_no_directory_above_it_is_created(self, tmp_path: Path, clock: Clock) -> None:
        """If the file system with the log is not mounted, no other log begins in its place."""
        directory = make(tmp_path / "mnt" / "audit", clock)
        with pytest.raises(ConfigurationError, match="mnt does not exist") as caught:
            directory.open()
        assert "mount" in (caught.value.remedy or "")
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "mnt").mkdir()
        assert directory.open().is_new

    def test_only_the_owner_can_read_it(self, tmp_path: Path, clock: Clock) -> None:
        directory = tmp_path / "audit"
        make(directory, clock).open()

        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [directory, *directory.iterdir()]}
        assert modes == {"audit": 0o700, "lock": 0o600, file_name(1): 0o600, "signing.key": 0o600}

    def test_it_is_continued_where_it_was_closed(self, tmp_path: Path, clock: Clock) -> None:
        for number in range(3):
            directory = make(tmp_path, clock)
            opened = directory.open()
            directory.append(records(number))
            directory.close()
            assert (opened.is_new, opened.removed_bytes, opened.unsigned_from) == (number == 0, 0, None)

        assert numbers_in(tmp_path) == [0, 1, 2]
        assert events_in(tmp_path).count("log.resumed") == 2
        assert checked(tmp_path).notes == ()

    def test_there_is_a_checkpoint_at_least_every_256_lines(self, tmp_path: Path, clock: Clock) -> None:
        directory = make(tmp_path, clock)
        directory.open()
        directory.append(records(*range(1000)))
        directory.append(records(*range(1000, 1100)))

        signed = [number for number, event in enumerate(events_in(tmp_path)) if event == "log.checkpoint"]
        assert len(signed) == 5
        assert max(after - before for before, after in zip([0, *signed], signed, strict=False)) <= 257
        assert checked(tmp_path).signed_up_to == signed[-1]

    def test_there_is_a_checkpoint_within_a_minute_and_hourly_without_records(
        self, tmp_path: Path, clock: Clock
    ) -> None:
        directory = make(tmp_path, clock)
        directory.open()
        directory.append(records(1))
        signed_at = []
        for _ in range(800):
            clock.now += 10
            if directory.tick():
                signed_at.append(clock.now - NOON)

        assert signed_at == [60, 3660, 7260]

    def test_a_file_ends_when_it_is_large(self, tmp_path: Path, clock: Clock) -> None:
        directory = make(tmp_path, clock, max_bytes=2000)
        opened = directory.open()
        for number in range(50):
            directory.append(records(number))
        directory.close()

        verdict = checked(tmp_path, opened.key)
        assert len(verdict.files) > 4
        assert len({file.key for file in verdict.files}) == len(verdict.files)
        assert numbers_in(tmp_path) == list(range(50))
        assert max(path.stat().st_size for path in tmp_path.iterdir()) < 4000

    def test_a_file_ends_at_midnight_utc(self, tmp_path: Path, clock: Clock) -> None:
        directory = make(tmp_path, clock)
        directory.open()
        clock.now += 12 * 3600 - 1
        directory.tick()
        assert len(lines_in(tmp_path)) == 1
        clock.now += 1
        directory.tick()
        assert len(lines_in(tmp_path)) == 2

    def test_the_private_key_of_a_file_that_has_ended_is_nowhere(self, tmp_path: Path, clock: Clock) -> None:
        keys = []

        def new_key() -> SigningKey:
            keys.append(SigningKey.generate())
            return keys[-1]

        directory = AuditDirectory(Disk(tmp_path), clock=clock, max_bytes=1000, new_key=new_key)
        directory.open()
        for number in range(20):
            directory.append(records(number))

        everything = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert len(keys) > 3
        assert [key for key in keys if key.to_file().split()[0] in everything] == [keys[-1]]

    def test_two_programs_cannot_use_one_directory(self, tmp_path: Path, clock: Clock) -> None:
        make(tmp_path, clock).open()
        with pytest.raises(ConfigurationError, match="in use by another program"):
            make(tmp_path, clock).open()


def directory_key(directory: Path) -> VerifyingKey:
    return SigningKey.from_file((directory / "signing.key").read_bytes()).public


def test_the_key_of_a_new_log_has_signed_at_once(tmp_path: Path, clock: Clock) -> None:
    opened = make(tmp_path, clock).open()

    assert checked(tmp_path, opened.key).is_trusted


class TestFilesThatHaveEnded:
    """They are compressed, and deleted when they are old."""

    def test_they_are_compressed_and_stay_valid(self, tmp_path: Path, clock: Clock) -> None:
        directory = make(tmp_path, clock, max_bytes=2000)
        directory.open()
        for number in range(50):
            directory.append(records(number))
        before = checked(tmp_path)
        while directory.compress_next():
            pass

        assert checked(tmp_path) == before
        plain = [path for path in tmp_path.glob("audit-*") if path.suffix != ".gz"]
        assert [path.name for path in plain] == [before.files[-1].name]
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in tmp_path.glob("*.gz"))

    @pytest.mark.parametrize("compressed", [False, True])
    def test_they_are_deleted_when_they_are_old(self, tmp_path: Path, clock: Clock, compressed: bool) -> None:
        directory = make(tmp_path, clock, keep_days=2)
        directory.open()
        for number in range(6):
            directory.append(records(number))
            while compressed and directory.compress_next():
                pass
            clock.now += 86_400
            directory.tick()
        directory.close()

        verdict = checked(tmp_path)
        assert verdict.deleted > 0
        assert numbers_in(tmp_path) == [4, 5]
        assert "log.deleted" in events_in(tmp_path)

    def test_a_clock_that_is_wrong_for_a_while_deletes_nothing(self, tmp_path: Path, clock: Clock) -> None:
        """It is set to another year, and back; the machine starts in 1970; and it was off for a month."""
        directory = make(tmp_path, clock, keep_days=30)
        directory.open()
        for number in range(50):
            directory.append(records(number))
            now = clock.now
            for wrong in (now + 400 * 86_400, 0.0) if number == 20 else ():
                clock.now = wrong
                directory.append(records(1000 + number))
                clock.now = wrong + 3 * 86_400
                directory.tick()
                directory.append(records(2000 + number))
            clock.now = now + 86_400
            directory.tick()
            if number < 30:
                assert numbers_in(tmp_path)[0] == 0
        assert numbers_in(tmp_path)[0] % 1000 == 20  # as if the clock had always been right

        clock.now += 40 * 86_400
        directory.tick()
        assert numbers_in(tmp_path)[0] % 1000 == 20
        for number in range(100, 110):
            directory.append(records(number))
            clock.now += 86_400
            directory.tick()
        assert numbers_in(tmp_path) == [*range(100, 110)]
        directory.close()
        assert checked(tmp_path).deleted > 0


class TestAfterAnAbruptEnd:
    """What is found when the program starts again."""

    def test_a_line_that_is_not_complete_is_removed(self, tmp_path: Path, clock: Clock) -> None:
        directory = make(tmp_path, clock)
        directory.open()
        directory.append(records(1))
        directory._disk.unlock()
        with (tmp_path / file_name(1)).open("ab") as file:
            file.write(b'{"seq":3,"prev"')

        again = make(tmp_path, clock)
        opened = again.open()
        assert (opened.removed_bytes, opened.unsigned_from) == (15, 3)
        again.close()
        first, second = checked(tmp_path).notes
        assert "from 3 on" in first
        assert "15 bytes" in second

    @pytest.mark.parametrize("left", [b"\0" * 4096, b"x" * 200_000], ids=["zeros", "more than is read at once"])
    def test_whatever_is_after_the_last_line_end(self, tmp_path: Path, clock: Clock, left: bytes) -> None:
        directory = make(tmp_path, clock)
        directory.open()
        directory.append(records(1))
        directory._disk.unlock()
        with (tmp_path / file_name(1)).open("ab") as file:
            file.write(left)

        again = make(tmp_path, clock)
        assert again.open().removed_bytes == len(left)
        assert numbers_in(tmp_path) == [1]

    @pytest.mark.parametrize("damage", ["no key", "another key", "no newest file", "no line", "no key for the next"])
    def test_what_was_removed_or_changed_is_said(self, tmp_path: Path, clock: Clock, damage: str) -> None:
        directory = make(tmp_path, clock, max_bytes=1000)
        directory.open()
        for number in range(20):
            directory.append(records(number))
        while directory.compress_next():
            pass
        directory._disk.unlock()
        (newest,) = tmp_path.glob("audit-*.jsonl")
        if damage == "no key":
            (tmp_path / "signing.key").unlink()
        elif damage == "another key":
            (tmp_path / "signing.key").write_bytes(SigningKey.generate().to_file())
        elif damage == "no newest file":
            newest.unlink()
        elif damage == "no line":
            newest.write_bytes(newest.read_bytes() + b"hello\n")
        else:
            newest.write_bytes(newest.read_bytes() + b'{"seq":99,"event":"log.continued"}\n')
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

        with pytest.raises(ConfigurationError, match="is damaged") as caught:
            make(tmp_path, clock).open()
        assert "as evidence" in (caught.value.remedy or "")
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class TestWhileItIsOpen:
    """Somebody deletes, moves or replaces files that the program has open."""

    @pytest.mark.parametrize("call", ["append", "tick", "checkpoint"])
    @pytest.mark.parametrize("what", ["directory", "file", "directory made anew"])
    def test_a_log_that_was_deleted_is_not_begun_anew(
        self, tmp_path: Path, clock: Clock, what: str, call: str
    ) -> None:
        path = tmp_path / "audit"
        directory = make(path, clock)
        directory.open()
        directory.append(records(1))
        if what == "file":
            next(path.glob("audit-*.jsonl")).unlink()
        else:
            shutil.rmtree(path)
            if what == "directory made anew":
                path.mkdir()
        left = sorted(path.iterdir()) if path.exists() else None
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="deleted or moved while the log was open") as caught:
                directory.append(records(2)) if call == "append" else getattr(directory, call)()
            assert "restart the program" in (caught.value.remedy or "")
            assert (sorted(path.iterdir()) if path.exists() else None) == left
        directory.close()

    def test_it_is_continued_when_it_is_back(self, tmp_path: Path, clock: Clock) -> None:
        directory = make(tmp_path / "audit", clock)
        directory.open()
        directory.append(records(1))
        (tmp_path / "audit").rename(tmp_path / "elsewhere")
        with pytest.raises(ConfigurationError, match="deleted or moved"):
            directory.append(records(2))
        (tmp_path / "elsewhere").rename(tmp_path / "audit")
        directory.append(records(3))
        with pytest.raises(ConfigurationError, match="in use by another program"):
            make(tmp_path / "audit", clock).open()
        directory.close()
        assert numbers_in(tmp_path / "audit") == [1, 3]
        checked(tmp_path / "audit")

    def test_a_copy_in_its_place_is_continued_and_locked(self, tmp_path: Path, clock: Clock) -> None:
        directory = make(tmp_path / "audit", clock)
        directory.open()
        directory.append(records(1))
        (tmp_path / "audit").rename(tmp_path / "elsewhere")
        shutil.copytree(tmp_path / "elsewhere", tmp_path / "audit")
        directory.append(records(2))
        with pytest.raises(ConfigurationError, match="in use by another program"):
            make(tmp_path / "audit", clock).open()
        directory.close()
        assert numbers_in(tmp_path / "audit") == [1, 2]
        checked(tmp_path / "audit")

    def test_a_copy_without_the_last_records_is_damaged(self, tmp_path: Path, clock: Clock) -> None:
        directory = make(tmp_path / "audit", clock)
        directory.open()
        directory.append(records(1))
        shutil.copytree(tmp_path / "audit", tmp_path / "earlier")
        directory.append(records(2))
        (tmp_path / "audit").rename(tmp_path / "elsewhere")
        (tmp_path / "earlier").rename(tmp_path / "audit")
        with pytest.raises(ConfigurationError, match="lines were removed from the end"):
            directory.append(records(3))

    @pytest.mark.parametrize("left", [0, 1, -1])
    def test_a_file_that_was_shortened_is_damaged(self, tmp_path: Path, clock: Clock, left: int) -> None:
        """The chain does not go on behind a line that is missing."""
        directory = make(tmp_path, clock)
        directory.open()
        directory.append(records(1))
        newest = tmp_path / file_name(1)
        os.truncate(newest, left if left >= 0 else newest.stat().st_size + left)
        before = newest.read_bytes()
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="lines were removed from the end"):
                directory.append(records(2))
        assert newest.read_bytes() == before, "the evidence"

    def test_closing_reports_that_the_end_is_lost(self, tmp_path: Path, clock: Clock) -> None:
        directory = make(tmp_path / "audit", clock)
        directory.open()
        directory.append(records(1))
        shutil.rmtree(tmp_path / "audit")
        with pytest.raises(ConfigurationError, match="deleted or moved"):
            directory.close()
        directory.close()


def scenario(directory: AuditDirectory, clock: Clock, written: list[int], *, retry: bool = False) -> None:
    """Write records in batches over several files, compress and delete some, and close the directory."""

    repeat = repeating(retry=retry)
    repeat(directory.open)
    for number in range(0, 24, 3):
        repeat(directory.append, records(number, number + 1, number + 2))
        written += [number, number + 1, number + 2]
        if number % 6 == 0:
            repeat(directory.compress_next)
        if number % 9 == 0:
            clock.now += 700
            repeat(directory.tick)
    repeat(directory.checkpoint)
    directory.close()


def test_a_failure_of_any_operation_loses_nothing(tmp_path: Path, clock: Clock) -> None:
    number = 0
    while True:
        number += 1
        path = tmp_path / str(number)
        disk = FaultyDisk(path, number)
        directory = AuditDirectory(disk, clock=clock, max_bytes=1200)
        written: list[int] = []
        with contextlib.suppress(OSError):  # only `close` does not try again
            scenario(directory, clock, written, retry=True)
        assert numbers_in(path) == written == list(range(24)), number
        assert checked(path).end.seq > 24
        if disk.operations < number:
            break
    assert number > 80


@pytest.mark.parametrize("how", ["killed", "power"])
def test_after_an_end_at_any_operation_everything_that_was_written_is_there(
    tmp_path: Path, clock: Clock, how: str
) -> None:
    number = 0
    while True:
        number += 1
        directory = tmp_path / str(number)
        disk = FaultyDisk(directory, number, how)
        written: list[int] = []
        try:
            scenario(AuditDirectory(disk, clock=clock, max_bytes=1200), clock, written)
        except Killed:
            disk.unlock()
        else:
            break

        again = make(directory, clock, max_bytes=1200)
        again.open()
        again.append(records(99))
        while again.compress_next():
            pass
        again.close()
        found = numbers_in(directory)
        assert found[: len(written)] == written, number
        assert found[-1] == 99
        # What was being written when the program ended may be there, in order and without gaps.
        assert found[:-1] == list(range(len(found) - 1)), number
        verdict = checked(directory)
        assert verdict.files[-1].key == directory_key(directory)
        assert not (directory / "next.key").exists()
        assert not list(directory.glob("*.part"))
    assert number > 80


@pytest.mark.parametrize("how", ["killed", "power"])
def test_an_end_while_the_end_before_is_put_in_order(tmp_path: Path, clock: Clock, how: str) -> None:
    """Twice: at an operation of the scenario, and at an operation of what follows."""
    for first in range(5, 80, 7):
        second = 0
        while True:
            second += 1
            directory = tmp_path / f"{first}-{second}"
            disk = FaultyDisk(directory, first, how)
            written: list[int] = []
            with pytest.raises(Killed):
                scenario(AuditDirectory(disk, clock=clock, max_bytes=1200), clock, written)
            disk.unlock()
            disk = FaultyDisk(directory, second, how)
            again = AuditDirectory(disk, clock=clock, max_bytes=1200)
            try:
                again.open()
                again.append(records(99))
                again.close()
            except Killed:
                disk.unlock()
                third = make(directory, clock, max_bytes=1200)
                third.open()
                third.close()
                assert numbers_in(directory)[: len(written)] == written, (first, second)
                checked(directory)
            else:
                break
