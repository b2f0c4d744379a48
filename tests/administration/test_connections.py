"""Hybrid connections are created, imported and issued."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import NoReturn

import attrs
import pytest

from hybridrelay._replace_file import create_whole_file
from hybridrelay.administration import (
    NewFiles,
    StoreRegistry,
    create_connection,
    describe_relay,
    import_connection,
    issue_connection_string,
    new_files,
    read_relay_record,
)
from hybridrelay.errors import ConfigurationError
from hybridrelay.relay import MemoryStore, SQLiteStore
from hybridrelay.security import HostPort, KeySlot, Role, load_connection_string

from .conftest import Scene


def test_the_relay_has_what_the_strings_carry(scene: Scene) -> None:
    connector = load_connection_string(scene.files.connector)
    application = load_connection_string(scene.files.application)
    assert connector.target == HostPort("db.internal", 5432)
    assert application.target is None
    for string, rule in ((connector, "connector"), (application, "application")):
        assert (string.entity_path, string.key_name) == ("orders", rule)
        assert string.hosts == ("a.example.com",)
        assert string.key == scene.key(rule, KeySlot.PRIMARY)


@pytest.mark.parametrize("written", [1, 2, 3])
def test_a_creation_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    """The next one says which files are useless, however many were written."""
    files = NewFiles(tmp_path / "c", tmp_path / "a", tmp_path / "au")
    registry = StoreRegistry(state_dir=tmp_path / "state", create=True)
    create = partial(
        create_connection,
        "orders",
        target=HostPort("db", 1),
        hosts=["relay.example.com"],
        files=files,
        registry=registry,
        now=time.time(),
    )
    made: list[Path] = []

    def create_one(path: Path, data: bytes) -> None:
        if len(made) == written:
            raise KeyboardInterrupt
        create_whole_file(path, data)
        made.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(new_files, "create_whole_file", create_one)
        patch.setattr(Path, "unlink", lambda *_args, **_options: None)  # as if this process were killed
        with pytest.raises(KeyboardInterrupt):
            create(before_change=_interrupt)
    assert len(made) == written
    with pytest.raises(ConfigurationError, match="the relay has no hybrid connection") as caught:
        create()
    remedy = caught.value.remedy
    assert remedy is not None
    assert all(str(path) in remedy for path in made)
    for path in made:
        path.unlink()
    assert create().name == "orders"


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt


def test_with_the_relay_of_this_machine(tmp_path: Path) -> None:
    files = NewFiles(tmp_path / "c", tmp_path / "a", tmp_path / "au")
    state, called = tmp_path / "state", []

    def before_change() -> None:
        with SQLiteStore.open(state) as store:
            called.append((store.list(), files.connector.exists()))

    create = partial(
        create_connection,
        "orders",
        target=HostPort("db", 1),
        hosts=["relay.example.com"],
        registry=StoreRegistry(state_dir=state, create=True),
        now=time.time(),
    )
    done = create(files=files, before_change=before_change)
    assert called == [((), True)]
    assert (done.name, done.hosts) == ("orders", ("relay.example.com",))
    assert done.pins == (describe_relay(state).pin,)
    assert load_connection_string(files.connector).relay_pins == done.pins
    with SQLiteStore.open(state) as store:
        assert store.get("orders").hosts == done.hosts
    with pytest.raises(ConfigurationError, match="already") as caught:
        create(files=NewFiles(tmp_path / "c2", tmp_path / "a2", tmp_path / "au2"))
    assert caught.value.remedy is not None
    assert not (tmp_path / "c2").exists()


def test_a_relay_that_was_never_started(tmp_path: Path) -> None:
    described = describe_relay(tmp_path)
    assert described.pin is None
    assert described.ports == {}


def test_importing_again_changes_nothing_and_a_different_file_is_refused(scene: Scene) -> None:
    assert scene.files.relay is not None
    record, store, called = read_relay_record(scene.files.relay), MemoryStore(), []
    do = partial(import_connection, source="the file", remedy="compare", before_change=lambda: called.append(1))
    registry = StoreRegistry(store)
    assert do(registry, record)
    assert not do(registry, record)
    assert called == [1]
    for changed, remedy in (
        (attrs.evolve(record, hosts=("b.example.com",)), "connections endpoints"),
        (attrs.evolve(record, rules=record.rules[:1]), "compare"),
    ):
        with pytest.raises(ConfigurationError, match="not the same as in the file") as caught:
            do(registry, changed)
        assert remedy in str(caught.value.remedy)
        assert registry.connection(record.name).differences(record) == ()
    assert called == [1, 1, 1], "before each attempt, because it succeeds if the other one is deleted at this moment"


@pytest.mark.parametrize("with_store", [True, False])
def test_a_connection_string_is_issued_with_the_key_that_the_relay_has(
    scene: Scene, tmp_path: Path, with_store: bool
) -> None:
    authority_has = scene.key("application", KeySlot.SECONDARY)
    relay_has = scene.store.regenerate_key("orders", "application", KeySlot.SECONDARY)
    identity = issue_connection_string(
        "orders",
        Role.APPLICATION,
        "reporting",
        authority_path=scene.files.authority,
        out=tmp_path / "out",
        slot=KeySlot.SECONDARY,
        registry=scene.registry if with_store else None,
        now=time.time(),
    )
    assert identity.label == "reporting"
    string = load_connection_string(tmp_path / "out")
    assert string.key == (relay_has if with_store else authority_has)
    assert string.require_identity()[0].serial == identity.serial


@pytest.mark.parametrize("problem", ["another hybrid connection", "out exists"])
def test_what_cannot_be_issued(scene: Scene, tmp_path: Path, problem: str) -> None:
    out = tmp_path / "out"
    name = "orders"
    if problem == "out exists":
        out.touch()
    else:
        name = "billing"
    with pytest.raises(ConfigurationError):
        issue_connection_string(
            name, Role.CONNECTOR, "b", authority_path=scene.files.authority, out=out, now=time.time()
        )
    assert not out.exists() or out.read_bytes() == b""
