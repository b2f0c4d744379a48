"""The state directory: it has one owner, nobody else can access it, and every error has a remedy."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from hybridrelay.errors import StateError
from hybridrelay.events import Event, EventStream, StoreBegun
from hybridrelay.relay.store import state_dir
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.relay.store.state_dir import (
    LOCK_FILE,
    REGISTRY_FILE,
    occupy_state_directory,
    prepare_state_directory,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="owners and modes are POSIX's")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refusal(path: Path, *, create: bool = True) -> str:
    with pytest.raises(StateError) as caught:
        SQLiteStore.open(path, create=create)
    assert caught.value.remedy
    return str(caught.value)


def test_it_is_created_for_its_owner_only(tmp_path: Path) -> None:
    state = tmp_path / "deep" / "state"
    old = os.umask(0)
    try:
        with SQLiteStore.open(state) as registry:
            registry.create("sql", ["relay.example.com"], [])
            modes = {path.name: mode(path) for path in state.iterdir()}
    finally:
        os.umask(old)
    assert mode(state) == 0o700
    assert REGISTRY_FILE in modes
    assert set(modes.values()) == {0o600}


def test_the_modes_of_our_own_files_are_corrected(tmp_path: Path) -> None:
    SQLiteStore.open(tmp_path).close()
    tmp_path.chmod(0o755)
    (tmp_path / REGISTRY_FILE).chmod(0o644)
    (tmp_path / "relay.pem").touch()
    SQLiteStore.open(tmp_path).close()
    assert (mode(tmp_path), mode(tmp_path / REGISTRY_FILE)) == (0o700, 0o600)


def test_the_mode_of_a_directory_with_other_files_is_not_changed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "holiday.jpg").touch()
    assert "open to others" in refusal(tmp_path)
    assert mode(tmp_path) == 0o755
    tmp_path.chmod(0o700)
    SQLiteStore.open(tmp_path).close()


def test_it_must_exist_where_it_is_only_read(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()
    assert "no registry" in refusal(tmp_path, create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_not_a_directory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    assert "not a directory" in refusal(path)
    assert "not a directory" in refusal(path, create=False)
    assert "cannot be used" in refusal(path / "below")


def test_a_directory_in_the_registrys_place(tmp_path: Path) -> None:
    (tmp_path / REGISTRY_FILE).mkdir()
    assert "cannot be opened" in refusal(tmp_path)


@pytest.mark.parametrize("known", [True, False])
def test_another_owner_is_refused_root_included(known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SQLiteStore.open(tmp_path).close()
    if not known:
        import pwd

        def unknown(uid: int) -> pwd.struct_passwd:
            raise KeyError(uid)

        monkeypatch.setattr(pwd, "getpwuid", unknown)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 4321)
    message = refusal(tmp_path)
    assert "belongs to the user" in message
    assert f"#{owner + 4321}" in message


@pytest.mark.parametrize("is_used", [False, True])
def test_an_empty_volume_of_another_owner(is_used: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container whose user id is arbitrary can make a directory of its own there."""
    if is_used:
        (tmp_path / REGISTRY_FILE).touch()
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 4321)
    with pytest.raises(StateError) as caught:
        prepare_state_directory(tmp_path)
    assert caught.value.remedy is not None
    assert (str(tmp_path / "relay") in caught.value.remedy) is not is_used
    assert ("sudo -u" in caught.value.remedy) is is_used


def test_one_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root can write everywhere, so the answer of the system call is replaced.
    monkeypatch.setattr(os, "access", lambda path, wanted: False)
    assert "not writable" in refusal(tmp_path)


def test_preparing_is_idempotent(tmp_path: Path) -> None:
    for _ in range(2):
        prepare_state_directory(tmp_path / "state")
    prepare_state_directory(tmp_path / "state", create=False)


def test_one_relay_at_a_time(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with occupy_state_directory(state):
        before = (state / LOCK_FILE).stat()
        with pytest.raises(StateError, match=rf"another relay runs on .* \(process {os.getpid()}\)") as caught:
            with occupy_state_directory(state):
                pytest.fail("two relays on one directory")
        assert caught.value.remedy
        assert (state / LOCK_FILE).stat() == before
        assert mode(state / LOCK_FILE) == 0o600
    with occupy_state_directory(state):
        pass  # the first one has gone


def test_a_lock_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int) -> bool:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(state_dir, "lock_file", no_locks)
    with pytest.raises(StateError, match="cannot be locked: No locks"), occupy_state_directory(tmp_path / "state"):
        pytest.fail("not locked")
    (tmp_path / "other" / LOCK_FILE).mkdir(parents=True)
    (tmp_path / "other").chmod(0o700)
    with pytest.raises(StateError, match="cannot be opened"), occupy_state_directory(tmp_path / "other"):
        pytest.fail("not opened")


def test_an_empty_registry_beside_a_certificate_is_refused(tmp_path: Path) -> None:
    """As after a copy that has failed on a full disk."""
    tmp_path.chmod(0o700)
    (tmp_path / REGISTRY_FILE).touch()
    events = list[Event]()
    with SQLiteStore.open(tmp_path, events=EventStream(events.append)):
        pass  # this process may have been killed while it made the registry
    (tmp_path / "relay.pem").touch()
    with SQLiteStore.open(tmp_path, events=EventStream(events.append)):
        pass
    (tmp_path / REGISTRY_FILE).write_bytes(b"")
    for create in (True, False):
        with pytest.raises(StateError, match="is an empty file") as caught:
            SQLiteStore.open(tmp_path, create=create, events=EventStream(events.append))
        assert caught.value.remedy is not None
        assert "restore a backup" in caught.value.remedy
    assert (tmp_path / REGISTRY_FILE).read_bytes() == b"", "it was not touched"
    assert events == []


def test_a_missing_registry_beside_a_certificate_is_reported(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "relay.pem").touch()
    events = list[Event]()
    with pytest.raises(StateError, match="there is no registry"):
        SQLiteStore.open(tmp_path, create=False, events=EventStream(events.append))
    for _ in range(2):
        with SQLiteStore.open(tmp_path, events=EventStream(events.append)):
            pass
    assert events == [StoreBegun(file=str(tmp_path / REGISTRY_FILE))]
