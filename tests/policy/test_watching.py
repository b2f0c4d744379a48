"""The policy of a running program: what it notices, and what stays in force."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import shutil
import threading
from pathlib import Path

import pytest
import trio

from hybridrelay.errors import ConfigurationError
from hybridrelay.events import PolicyInForce
from hybridrelay.policy import local_time
from hybridrelay.policy.directory import PolicyDirectory, Stamp
from hybridrelay.policy.watching import WatchedPolicy

from ..waiting import async_wait_until


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The machine-wide directory, which does not exist yet."""
    path = tmp_path / "policy.d"
    monkeypatch.setattr("hybridrelay.policy.machine.DIRECTORY", path)
    monkeypatch.setattr("hybridrelay.policy.machine.OWNER", os.getuid())
    monkeypatch.setattr("hybridrelay.policy.watching.POLL_SECONDS", 0.01)
    return path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o755, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)


def limit_of(watched: WatchedPolicy) -> list[int]:
    return [file.max_streams.value for file in watched.policy.files if file.max_streams is not None]


async def until(condition: object) -> None:
    async def is_true() -> bool:
        return bool(condition())  # type: ignore[operator]

    await async_wait_until(is_true, seconds=30, what="what the test waits for")


async def test_changes_are_noticed_also_of_a_directory_that_is_new(directory: Path, nursery: trio.Nursery) -> None:
    watched, changes, errors = WatchedPolicy(), [0], list[ConfigurationError]()

    def changed() -> None:
        changes[0] += 1

    nursery.start_soon(watched.watch, changed, errors.append)
    for number, text in enumerate(["MaxStreams = 1\n", "MaxStreams = 2\n", ""], 1):
        write(directory / "a.toml", text)
        await until(lambda number=number: changes[0] == number)
        assert limit_of(watched) == [number][: len(text)]
    (directory / "a.toml").unlink()
    await until(lambda: changes[0] == 4)
    assert errors == []
    nursery.cancel_scope.cancel()


async def test_what_cannot_be_read_changes_nothing_and_is_reported_once(
    directory: Path, nursery: trio.Nursery
) -> None:
    write(directory / "a.toml", "MaxStreams = 1\n")
    watched, changes, errors = WatchedPolicy(), [0], list[ConfigurationError]()

    def changed() -> None:
        changes[0] += 1

    nursery.start_soon(watched.watch, changed, errors.append)
    write(directory / "a.toml", "MaxStreams = x\n")
    await until(lambda: len(errors) == 1)
    write(directory / "b.toml", "# the same error again\n")
    (directory / "a.toml").chmod(0o666)
    await until(lambda: len(errors) == 2)
    assert limit_of(watched) == [1]
    assert len(watched.errors) == 1
    with pytest.raises(ConfigurationError, match="can write"):
        await watched.reload()
    # The same content as before, but the errors are over.
    write(directory / "a.toml", "MaxStreams = 1\n")
    (directory / "b.toml").unlink()
    await until(lambda: changes[0] == 1)
    assert watched.errors == ()
    for name in ("a.toml",):
        (directory / name).unlink()
    directory.rmdir()
    await until(lambda: len(errors) == 3)
    assert "has disappeared" in str(errors[2])
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("trouble", ["invalid", "gone", "restless", "hanging"])
async def test_trouble_with_a_further_directory_does_not_delay_the_policy_of_the_machine(
    directory: Path, tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """Anybody may own a further directory."""
    further = tmp_path / "further"
    write(further / "a.toml", "MaxStreams = 100\n")
    watched, errors = WatchedPolicy([further]), list[ConfigurationError]()
    hang = threading.Event()

    def stamp(source: PolicyDirectory) -> Stamp:
        if source.path == further:
            hang.wait()
        return original(source)

    async def change_all_the_time() -> None:
        for size in itertools.count(1):
            (further / "a.toml").write_text(f"MaxStreams = 100{size * ' '}\n")
            await trio.sleep(0.002)

    nursery.start_soon(watched.watch, lambda: None, errors.append)
    match trouble:
        case "invalid":
            write(further / "b.toml", "x")
            await until(lambda: errors)
        case "gone":
            shutil.rmtree(further)
            await until(lambda: errors)
        case "restless":
            nursery.start_soon(change_all_the_time)
        case "hanging":
            original = PolicyDirectory.stamp
            monkeypatch.setattr(PolicyDirectory, "stamp", stamp)
    try:
        write(directory / "a.toml", "MaxStreams = 1\n")
        await until(lambda: limit_of(watched) == [1, 100])
    finally:
        hang.set()
    nursery.cancel_scope.cancel()


async def test_a_directory_that_changes_all_the_time_is_read_in_the_end(
    directory: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridrelay.policy.watching.RESTLESS_SECONDS", 0.1)
    numbers = itertools.count()
    monkeypatch.setattr(PolicyDirectory, "stamp", lambda _: ((next(numbers),),))
    write(directory / "a.toml", "MaxStreams = 1\n")
    watched, errors = WatchedPolicy(), list[ConfigurationError]()
    nursery.start_soon(watched.watch, lambda: None, errors.append)
    write(directory / "a.toml", "MaxStreams = 2\n")
    await until(lambda: limit_of(watched) == [2])
    assert errors == []
    nursery.cancel_scope.cancel()


async def test_one_reading_serves_all_who_share_a_policy(directory: Path, nursery: trio.Nursery) -> None:
    write(directory / "a.toml", "MaxStreams = 1\n")
    watched = WatchedPolicy.shared()
    assert WatchedPolicy.shared() is watched
    assert WatchedPolicy.shared([directory]) is not watched
    event = watched.take_event()
    assert isinstance(event, PolicyInForce)
    assert (event.files, event.rules, event.added) == (1, 1, (f"MaxStreams 1 ({directory}/a.toml:1)",))
    assert watched.take_event() is None
    counts, errors = [0, 0], list[ConfigurationError]()

    def count(which: int) -> None:
        counts[which] += 1

    for which in range(2):
        nursery.start_soon(watched.watch, lambda which=which: count(which), errors.append)
    write(directory / "a.toml", "bad")
    await until(lambda: errors)
    write(directory / "a.toml", "MaxStreams = 2\n")
    await until(lambda: counts == [1, 1])
    assert len(errors) == 1
    assert watched.take_event() is not None
    nursery.cancel_scope.cancel()


async def test_a_reload_reports_the_changes_of_all_directories(directory: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.d"
    write(directory / "a.toml", "MaxStreams = 1\n")
    write(other / "b.toml", "MaxStreams = 3\n")
    watched = WatchedPolicy([other])
    watched.take_event()
    write(directory / "a.toml", "MaxStreams = 2\n")
    await watched.reload()
    event = watched.take_event()
    assert isinstance(event, PolicyInForce)
    assert event.added == (f"MaxStreams 2 ({directory}/a.toml:1)",)
    assert event.removed == (f"MaxStreams 1 ({directory}/a.toml:1)",)


def test_without_rules_there_is_no_event(directory: Path) -> None:
    assert WatchedPolicy().take_event() is None


def test_the_local_time_does_not_depend_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    local_time._zone.cache_clear()
    here = local_time.local_now()
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    local_time._zone.cache_clear()

    there = local_time.local_now()

    assert there.utcoffset() == here.utcoffset()
    monkeypatch.setattr(local_time, "_ZONE_FILE", "/nonexistent")
    local_time._zone.cache_clear()
    assert local_time.local_now().utcoffset() == dt.timedelta(0)
    local_time._zone.cache_clear()
