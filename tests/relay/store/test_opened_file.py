"""A registry whose file is replaced, deleted or restored while it is open, or while it is opened."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio

from hybridrelay.errors import StateError
from hybridrelay.events import Event, EventStream, StoreReadable, StoreUnreadable
from hybridrelay.relay.service.watcher import StoreWatcher
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.relay.store.state_dir import REGISTRY_FILE
from hybridrelay.security import KeySlot, Rule

from .test_sqlite import make_version_1

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not replace a file that is open")

Rules = tuple[Rule, ...]


def back_up(state: Path, backup: Path) -> None:
    """What docs/operating.md shows, without the program `sqlite3`."""
    with closing(sqlite3.connect(state / REGISTRY_FILE)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)


def replace(path: Path) -> None:
    """Put a copy in place of a file."""
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


def replace_directory(path: Path) -> None:
    """Put another directory with a copy in place of the one of a file."""
    path.parent.rename(path.parent.with_name("moved"))
    shutil.copytree(path.parent.with_name("moved"), path.parent)


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "replaced": (replace, "was replaced while it was open"),
    "replaced with its directory": (replace_directory, "was replaced while it was open"),
    "deleted": (Path.unlink, "was deleted or moved while it was open"),
    "deleted with its directory": (lambda path: shutil.rmtree(path.parent), "was deleted or moved"),
    "moved": (lambda path: path.rename(path.with_name("other")), "was deleted or moved"),
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_changed_in_a_file_that_is_gone(tmp_path: Path, rules: Rules, case: str) -> None:
    spoil, message = CASES[case]
    path = tmp_path / "state" / REGISTRY_FILE
    with SQLiteStore.open(path.parent) as store:
        store.create("sql", ["a"], rules)
        before = store.get("sql")
        spoil(path)
        with pytest.raises(StateError, match=message) as caught:
            store.data_version()
        assert caught.value.remedy
        with pytest.raises(StateError, match=message):
            store.revoke_key("sql", rules[0].name, KeySlot.PRIMARY)
        with pytest.raises(StateError, match=message):
            store.create("other", ["a"], rules)
        assert store.list() == (before,), "nothing was changed, and what is known can be read"


def test_a_file_that_is_put_back_can_be_changed_again(tmp_path: Path, rules: Rules) -> None:
    path = tmp_path / "state" / REGISTRY_FILE
    with SQLiteStore.open(path.parent) as store:
        path.rename(tmp_path / "elsewhere")
        with pytest.raises(StateError, match="was deleted or moved"):
            store.create("sql", ["a"], rules)
        (tmp_path / "elsewhere").rename(path)
        store.create("sql", ["a"], rules)
    with SQLiteStore.open(path.parent) as store:
        assert store.exists("sql")


def test_a_directory_may_be_moved_while_it_is_not_in_use(tmp_path: Path, rules: Rules) -> None:
    with SQLiteStore.open(tmp_path / "state") as store:
        store.create("sql", ["a"], rules)
    (tmp_path / "state").rename(tmp_path / "moved")
    with SQLiteStore.open(tmp_path / "moved") as store:
        store.revoke_key("sql", rules[0].name, KeySlot.PRIMARY)


def test_the_working_directory_may_change(tmp_path: Path, rules: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with SQLiteStore.open(Path("state")) as store:
        monkeypatch.chdir("/")
        store.create("sql", ["a"], rules)
        store.data_version()


def test_a_file_that_cannot_be_examined_is_not_changed(tmp_path: Path, rules: Rules) -> None:
    with SQLiteStore.open(tmp_path / "state") as store:
        (tmp_path / "state").rename(tmp_path / "moved")
        (tmp_path / "state").symlink_to("state")
        with pytest.raises(StateError, match="cannot be examined: Too many levels of symbolic links"):
            store.create("sql", ["a"], rules)


@pytest.mark.parametrize("before", [True, False])
def test_a_file_that_is_replaced_while_it_is_opened_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    path = tmp_path / REGISTRY_FILE
    SQLiteStore.open(tmp_path).close()

    class Opened(sqlite3.Connection):
        def __init__(self, *args: object, **kwargs: object) -> None:
            if before:
                replace(path)
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]
            if not before:
                replace(path)

    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: real(*args, factory=Opened, **kwargs))
    with pytest.raises(StateError, match="was replaced while it was open"):
        SQLiteStore.open(tmp_path)
    monkeypatch.undo()
    SQLiteStore.open(tmp_path).close()


async def test_the_watcher_reports_it_once(tmp_path: Path, rules: Rules) -> None:
    path = tmp_path / REGISTRY_FILE
    events: list[Event] = []
    with SQLiteStore.open(tmp_path) as store:
        store.create("sql", ["a"], rules)
        watcher = StoreWatcher(store, events=EventStream(events.append))
        async with trio.open_nursery() as nursery:
            await nursery.start(watcher.run, lambda change: None)
            path.rename(tmp_path / "elsewhere")
            for _ in range(3):
                await watcher.refresh()
            (event,) = events
            assert isinstance(event, StoreUnreadable)
            assert "was deleted or moved" in event.detail
            assert event.remedy
            assert "sql" in watcher.connections, "what is known stays in use"
            (tmp_path / "elsewhere").rename(path)
            await watcher.refresh()
            nursery.cancel_scope.cancel()
    assert events == [event, StoreReadable()]


@pytest.mark.parametrize("earlier", [True, False])
def test_a_backup_in_place_of_a_file_whose_owner_was_killed_is_complete(
    tmp_path: Path, rules: Rules, earlier: bool
) -> None:
    """The log that a killed process leaves has nothing that SQLite would apply to the backup."""
    with SQLiteStore.open(tmp_path / "before") as store:
        expected = store.create("sql", ["a"], rules)
    back_up(tmp_path / "before", tmp_path / "backup")
    state = tmp_path / "state"
    if earlier:
        make_version_1(state)
    script = (
        "import os, pathlib, signal, sys; from hybridrelay.relay import SQLiteStore; "
        "store = SQLiteStore.open(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, state], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert (state / f"{REGISTRY_FILE}-wal").stat().st_size == 0
    shutil.copy(tmp_path / "backup", state / REGISTRY_FILE)
    with SQLiteStore.open(state) as store:
        assert store.list() == (expected,)
