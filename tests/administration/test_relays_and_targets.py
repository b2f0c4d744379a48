"""Other relays, and another target, for a hybrid connection that exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridrelay.administration import change_relays, change_target, read_relay_record
from hybridrelay.errors import ConfigurationError
from hybridrelay.security import HostPort, KeySlot, load_connection_string

from .conftest import Scene


def test_a_second_relay_is_added_at_the_registry_and_in_the_files(scene: Scene, tmp_path: Path) -> None:
    hosts, called = ("a.example.com", "b.example.com"), []
    files = [scene.files.connector, scene.files.application, scene.files.authority]
    done = change_relays(
        "orders",
        hosts,
        registry=scene.registry,
        relay_file=tmp_path / "new.relay",
        update=files,
        ports=[{}, {"http": 8080}],
        before_change=lambda: called.append(scene.store.get("orders").hosts),
    )
    assert called == [("a.example.com",)]
    assert (done.before, done.after) == (("a.example.com",), hosts)
    assert (done.updated, done.incomplete) == (tuple(files), None)
    assert done.first_file is not None
    assert done.first_file.path == files[0]
    assert scene.store.get("orders").hosts == hosts
    string = load_connection_string(scene.files.connector)
    assert string.hosts == hosts
    assert string.endpoints[1].ports == {"http": 8080}
    record = read_relay_record(tmp_path / "new.relay")
    assert record.hosts == hosts
    assert record.rules == scene.store.get("orders").rules


def test_relays_are_changed_in_files_without_a_registry(scene: Scene) -> None:
    done = change_relays("orders", ["b.example.com"], update=[scene.files.application])
    assert (done.before, done.after) == (None, None)
    assert load_connection_string(scene.files.application).hosts == ("b.example.com",)
    assert scene.store.get("orders").hosts == ("a.example.com",)


@pytest.mark.parametrize(
    ("name", "hosts", "ports"),
    [
        ("billing", ["b.example.com"], None),
        ("orders", ["not a host"], None),
        ("orders", ["b.example.com"], [{}, {}]),
    ],
)
def test_what_is_not_possible_changes_nothing(
    scene: Scene, tmp_path: Path, name: str, hosts: list[str], ports: list[dict[str, int | None]] | None
) -> None:
    before = scene.files.application.read_bytes()
    with pytest.raises(ConfigurationError):
        change_relays(
            name,
            hosts,
            registry=scene.registry,
            relay_file=tmp_path / "new.relay",
            update=[scene.files.application],
            ports=ports,
        )
    assert scene.files.application.read_bytes() == before
    assert scene.store.get("orders").hosts == ("a.example.com",)
    assert not (tmp_path / "new.relay").exists()


def test_another_target_is_written_into_the_files_and_the_key_stays(scene: Scene) -> None:
    target, called = HostPort("db2.internal", 5433), []
    key = scene.key("connector", KeySlot.PRIMARY)
    files = [scene.files.connector, scene.files.authority]
    done = change_target("orders", target, files, before_change=lambda: called.append(1))
    assert (done.updated, done.incomplete, called) == (tuple(files), None, [1])
    string = load_connection_string(scene.files.connector)
    assert (string.target, string.key) == (target, key)
    assert change_target("orders", target, files).updated == tuple(files)


@pytest.mark.parametrize("problem", ["application", "another hybrid connection"])
def test_files_without_a_target(scene: Scene, problem: str) -> None:
    before = scene.files.connector.read_bytes()
    name, other = ("billing", []) if problem != "application" else ("orders", [scene.files.application])
    with pytest.raises(ConfigurationError):
        change_target(name, HostPort("db", 1), [scene.files.connector, *other])
    assert scene.files.connector.read_bytes() == before
