"""What a connector remembers of its instances, wherever there is a place for it, and that it never needs it."""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from hybridrelay._file_thread import FILE_SECONDS
from hybridrelay._state_directory import own_state_directory
from hybridrelay.connectivity.instance import new_instance
from hybridrelay.connector import InstanceFile, default_instance_file, state_directory
from hybridrelay.connector.instance_file import MAX_BESIDE
from hybridrelay.errors import ConfigurationError
from hybridrelay.events import Event, EventStream, InstanceFileNotUsed, InstanceFileNotWritten
from hybridrelay.protocol.control import MAX_REPLACES

from ..waiting import patience

PUBLISHED = [("relay.example", "orders"), ("relay.example", "billing")]


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "instance"


def test_a_successor_knows_all_instances_of_the_last_minutes(path: Path) -> None:
    clock = Clock()
    told = []
    for _ in range(4):
        file = InstanceFile(path, clock=clock)
        told.append((file.instance, file.dead))
        clock.now += 60
        file.close()
    instances = [instance for instance, _ in told]
    assert [dead for _, dead in told] == [(), (instances[0],), (instances[1], instances[0]), tuple(instances[2::-1])]
    clock.now += 3600
    file = InstanceFile(path, clock=clock)
    assert file.dead == (instances[3],), "of long ago, only the last one"
    file.close()


def test_what_it_declares_dead_fits_into_a_message(path: Path) -> None:
    clock = Clock()
    for _ in range(3 * MAX_REPLACES):
        file = InstanceFile(path, clock=clock)
        assert len(file.dead) <= MAX_REPLACES
        file.close()
    assert len(file.dead) == MAX_REPLACES


async def test_a_further_instance_of_the_process_is_remembered_too(path: Path) -> None:
    file, further = InstanceFile(path), new_instance()
    await file.renew(file.instance, further)
    file.close()
    after = InstanceFile(path)
    assert after.dead == (further, file.instance)
    after.close()


async def test_a_relay_that_makes_a_connector_renew_its_instance_pushes_out_nothing(path: Path) -> None:
    """The first instance is in use at the other relays, for however long this process has run."""
    clock = Clock()
    file = InstanceFile(path, clock=clock)
    renewed = [file.instance]
    for _ in range(5 * MAX_REPLACES):
        clock.now += 3600
        renewed.append(new_instance())
        await file.renew(renewed[-2], renewed[-1])
    other = new_instance()
    await file.renew(file.instance, other)
    clock.now += 86_400
    file.close()
    after = InstanceFile(path, clock=clock)
    assert after.dead == (other, renewed[-1], file.instance)
    after.close()


async def test_instances_for_very_many_relays_leave_the_earlier_ones_in_place(path: Path) -> None:
    file = InstanceFile(path)
    renewed = [new_instance() for _ in range(3 * MAX_REPLACES)]
    for one in renewed:
        await file.renew(file.instance, one)
    recorded = renewed[: MAX_REPLACES - 1]
    latest = new_instance()
    await file.renew(recorded[3], latest)
    file.close()
    after = InstanceFile(path)
    assert set(after.dead) == {file.instance, latest, *recorded} - {recorded[3]}
    after.close()


async def test_the_instance_of_a_relay_that_was_left_is_forgotten(path: Path) -> None:
    file, further = InstanceFile(path), new_instance()
    await file.renew(file.instance, further)
    await file.forget(further)
    await file.forget(file.instance)
    file.close()
    after = InstanceFile(path)
    assert after.dead == (file.instance,)
    after.close()


async def test_a_file_that_another_connector_holds_is_left_alone(path: Path) -> None:
    with_lock = InstanceFile(path)
    content = path.read_bytes()
    beside = InstanceFile(path)
    assert with_lock.is_held
    assert not beside.is_held
    await beside.renew(beside.instance, new_instance())
    assert path.read_bytes() == content
    beside.close()
    with_lock.close()


@pytest.mark.parametrize(
    "content", [b"", b"0" * 63 + b" 1\n", b"a" * 65 + b"\n", b"a" * 64 + b" 1 1\n", b"a" * 64 + b" 1e999\n"]
)
def test_a_line_of_another_form_says_nothing(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    file = InstanceFile(path)
    assert file.dead == ()
    file.close()
    again = InstanceFile(path)
    assert again.dead == (file.instance,)
    again.close()


@pytest.mark.skipif(sys.platform == "win32", reason="modes are of POSIX")
def test_nobody_else_can_read_the_secrets(path: Path) -> None:
    path.touch(0o644)
    InstanceFile(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_path_that_cannot_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="instance file"):
        InstanceFile(tmp_path / "nowhere" / "instance")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
async def test_a_full_disk_stops_nobody_and_what_can_be_read_is_used(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    happened: list[Event] = []
    first = InstanceFile(path)
    first.close()

    def write(descriptor: int, data: bytes) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "write", write)
    second = InstanceFile(path, events=EventStream(happened.append))
    assert second.dead == (first.instance,)
    await second.renew(second.instance, new_instance())
    second.close()
    assert happened == [InstanceFileNotWritten(file=str(path), detail=os.strerror(code))] * 2
    monkeypatch.undo()
    third = InstanceFile(path)
    assert third.dead == (first.instance,), "what was there is there still"
    third.close()


def test_a_disk_on_which_nothing_can_be_created_stops_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[Event] = []

    def no_open(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", no_open)
    file = InstanceFile(path, events=EventStream(happened.append))
    assert (file.dead, file.is_held) == ((), False)
    assert happened == [InstanceFileNotWritten(file=str(path), detail="No space left on device")]
    file.close()


# --- on a file system that answers late, or never


class Disk:
    """A disk that confirms nothing from `stall` to `answer`."""

    def __init__(self) -> None:
        self.is_asked, self._answers = threading.Event(), threading.Event()
        self._loop = 0

    def stall(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Call this in the event loop."""
        self._loop = threading.get_ident()
        monkeypatch.setattr(os, "fsync", self._sync)

    def answer(self) -> None:
        self._answers.set()

    def _sync(self, descriptor: int) -> None:
        assert self._answers.is_set() or threading.get_ident() != self._loop, "the event loop waits for the disk"
        self.is_asked.set()
        self._answers.wait(patience(30))


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.answer()


async def test_a_disk_that_answers_late_holds_up_nothing_else(
    path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, further = InstanceFile(path), new_instance()
    disk.stall(monkeypatch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.renew, file.instance, further)
        await trio.testing.wait_all_tasks_blocked()
        disk.answer()
    file.close()
    after = InstanceFile(path)
    assert after.dead == (further, file.instance)
    after.close()


async def test_a_disk_that_does_not_answer_is_reported(
    path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, mock_clock: trio.testing.MockClock
) -> None:
    happened: list[Event] = []
    file = InstanceFile(path, events=EventStream(happened.append))
    disk.stall(monkeypatch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.renew, file.instance, new_instance())
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(FILE_SECONDS + 1)
    (event,) = happened
    assert isinstance(event, InstanceFileNotWritten)
    assert "did not answer" in event.detail
    file.close()


async def test_a_thread_that_still_writes_has_a_descriptor_of_its_own(
    path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would write into whatever has got the number of the closed one."""
    file = InstanceFile(path)
    used: list[int] = []
    lseek = os.lseek

    def note(descriptor: int, position: int, how: int) -> int:
        used.append(descriptor)
        return lseek(descriptor, position, how)

    monkeypatch.setattr(os, "lseek", note)
    disk.stall(monkeypatch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.renew, file.instance, new_instance())
        assert await trio.to_thread.run_sync(disk.is_asked.wait, patience(30))
        nursery.cancel_scope.cancel()
    closed = file._file
    file.close()
    assert closed is not None
    assert closed not in used
    os.fstat(used[0])  # it is open for as long as the thread uses it


# --- where nobody names one


@pytest.mark.parametrize(
    ("environ", "home", "directory"),
    [
        ({"STATE_DIRECTORY": "/var/lib/hr", "XDG_STATE_HOME": "/x"}, "/home/me", "/var/lib/hr"),
        ({"STATE_DIRECTORY": "/var/lib/hr:/var/lib/other"}, None, "/var/lib/hr"),
        ({"XDG_STATE_HOME": "/x"}, "/home/me", "/x/hybridrelay"),
        ({"XDG_STATE_HOME": "relative"}, "/home/me", "/home/me/.local/state/hybridrelay"),
        ({"STATE_DIRECTORY": "", "XDG_STATE_HOME": ""}, "/home/me", "/home/me/.local/state/hybridrelay"),
        ({}, None, None),
    ],
)
def test_the_state_directory_is_that_of_the_service_or_of_the_user(
    environ: dict[str, str], home: str | None, directory: str | None
) -> None:
    found = state_directory(environ, None if home is None else Path(home))
    assert found == (None if directory is None else Path(directory))


def test_a_user_without_a_home_has_the_state_directory_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert own_state_directory({}) is None
    assert own_state_directory({"STATE_DIRECTORY": "/var/lib/hr"}) == Path("/var/lib/hr")


def test_each_set_of_hybrid_connections_has_a_file(tmp_path: Path) -> None:
    directory = tmp_path / "made" / "for it"
    first = default_instance_file(directory, PUBLISHED)
    assert first is not None
    first.close()
    others = default_instance_file(directory, PUBLISHED[:1])
    again = default_instance_file(directory, reversed(PUBLISHED))
    assert others is not None
    assert again is not None
    assert others.dead == ()
    assert again.dead == (first.instance,)
    if sys.platform != "win32":
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    others.close()
    again.close()


def test_connectors_beside_each_other_share_no_file(tmp_path: Path) -> None:
    beside = [default_instance_file(tmp_path, PUBLISHED) for _ in range(MAX_BESIDE)]
    assert len({file.path for file in beside if file is not None}) == MAX_BESIDE
    assert default_instance_file(tmp_path, PUBLISHED) is None
    killed = beside[3]
    assert killed is not None
    killed.close()
    successor = default_instance_file(tmp_path, PUBLISHED)
    assert successor is not None
    assert successor.dead == (killed.instance,)
    for file in [successor, *beside]:
        assert file is not None
        file.close()


@pytest.mark.parametrize("trouble", ["a file in the way", "may not write", "no locks"])
def test_without_a_place_for_it_a_connector_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    directory = tmp_path / "directory"
    if trouble == "a file in the way":
        directory.touch()
    elif trouble == "may not write":
        real_open = os.open

        def refuse(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if str(path).startswith(str(directory)):
                raise PermissionError(errno.EACCES, "Permission denied")
            return real_open(path, flags, mode, dir_fd=dir_fd)

        monkeypatch.setattr(os, "open", refuse)
    else:

        def no_locks(_: int) -> bool:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("hybridrelay.connector.instance_file.lock_file", no_locks)
    happened: list[Event] = []
    assert default_instance_file(directory, PUBLISHED, events=EventStream(happened.append)) is None
    assert [type(event) for event in happened] == [InstanceFileNotUsed]


@pytest.mark.parametrize("content", ["Endpoint=hr://relay.example/;SharedAccessKey=x", "-----BEGIN", "notes\n"])
def test_a_file_that_holds_something_else_is_left_as_it_is(path: Path, content: str) -> None:
    path.write_text(content)
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="was not changed"):
        InstanceFile(path)
    assert path.read_text() == content
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_only_a_regular_file_is_used(path: Path) -> None:
    os.mkfifo(path, 0o644)
    with pytest.raises(ConfigurationError, match="is not a regular file"):
        InstanceFile(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with pytest.raises(ConfigurationError, match="is not a regular file"):
        InstanceFile(Path(os.devnull))


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"0123456789abcdef", b"\n"])
def test_a_file_that_was_being_written_when_the_machine_lost_power(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    file = InstanceFile(path)
    assert file.is_held
    assert file.dead == ()
    file.close()
