"""Keys change together with the files that carry them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hybridrelay.administration import KeySource, regenerate_key, revoke_key, roll_key, use_key
from hybridrelay.errors import ConfigurationError, HybridRelayError
from hybridrelay.security import KeySlot, Secret, generate_key, key_fingerprint, load_connection_string

from .conftest import Scene

PRIMARY, SECONDARY = KeySlot


class Steps:
    """The order of the steps of a change."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.key_at_call: Secret | None = None
        self.new_files: list[str] = []

    def before_change(self) -> None:
        """The value for the parameter of this name."""
        assert self.key_at_call is None, "called once"
        self.key_at_call = self.scene.key("application", PRIMARY)
        self.new_files = [path.name for path in self.scene.files.authority.parent.iterdir() if path.name == "out"]


def test_a_regenerated_key_is_in_the_store_and_in_the_files(scene: Scene, tmp_path: Path) -> None:
    old, steps = scene.key("application", PRIMARY), Steps(scene)
    files = [scene.files.application, scene.files.authority]
    done = regenerate_key(
        scene.registry,
        "orders",
        "application",
        PRIMARY,
        update=files,
        out=tmp_path / "out",
        before_change=steps.before_change,
    )
    assert done.ended == key_fingerprint(old)
    assert old != done.key == scene.key("application", PRIMARY)
    assert done.updated == tuple(files)
    assert (done.hosts, done.unchanged, done.incomplete) == (("a.example.com",), (), None)
    assert load_connection_string(scene.files.application).key == done.key
    assert KeySource.of_authority_file(scene.files.authority, "orders", "application", PRIMARY).rule == (
        scene.store.rule("orders", "application")
    )
    assert (tmp_path / "out").read_text() == done.key.reveal() + "\n"
    # The caller was told when everything was prepared, and nothing was changed yet.
    assert steps.key_at_call == old
    assert steps.new_files == ["out"]


def test_a_key_of_another_relay(scene: Scene, tmp_path: Path) -> None:
    key = generate_key()
    (tmp_path / "key").write_text(key.reveal())
    done = regenerate_key(scene.registry, "orders", "application", SECONDARY, key_file=tmp_path / "key")
    assert done.key == key == scene.key("application", SECONDARY)


def test_files_with_the_other_key_stay(scene: Scene) -> None:
    before = scene.files.application.read_bytes()
    done = regenerate_key(scene.registry, "orders", "application", SECONDARY, update=[scene.files.application])
    assert [(file.path, file.has_new_key) for file in done.unchanged] == [(scene.files.application, False)]
    assert done.updated == ()
    assert scene.files.application.read_bytes() == before


@pytest.mark.parametrize("problem", ["file of another rule", "out exists", "no such rule", "file cannot be written"])
def test_what_fails_before_the_change_changes_nothing(
    scene: Scene, tmp_path: Path, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, out, rule = scene.key("application", PRIMARY), tmp_path / "out", "application"
    update = [scene.files.application]
    if problem == "file of another rule":
        update.append(scene.files.connector)
    elif problem == "out exists":
        out.touch()
    elif problem == "no such rule":
        rule, update = "absent", []
    else:
        monkeypatch.setattr("hybridrelay._replace_file.create_file", _fail)
    before = scene.files.application.read_bytes()

    def unexpected() -> None:
        raise AssertionError("the change is about to begin")

    with pytest.raises(HybridRelayError):
        regenerate_key(scene.registry, "orders", rule, PRIMARY, update=update, out=out, before_change=unexpected)
    assert scene.key("application", PRIMARY) == old
    assert scene.files.application.read_bytes() == before
    assert not out.exists() or out.read_bytes() == b""


def _fail(path: Path, *_: object) -> None:
    raise OSError(28, "No space left on device", str(path))


def test_a_file_that_is_not_updated_in_spite_of_all_is_reported_with_the_result(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def fail(source: str, target: str) -> None:
        if Path(target) == scene.files.application:
            raise OSError(5, "Input/output error", str(target))
        replace(source, target)

    monkeypatch.setattr("hybridrelay._replace_file.os.replace", fail)
    files = [scene.files.application, scene.files.authority]
    done = regenerate_key(scene.registry, "orders", "application", PRIMARY, update=files, use_command="keys use it")
    assert done.key == scene.key("application", PRIMARY)
    assert done.updated == (scene.files.authority,)
    assert done.incomplete is not None
    assert "the key was regenerated, but not every file was updated" in str(done.incomplete)
    assert str(scene.files.application) in str(done.incomplete)
    assert done.incomplete.remedy == "the relay has the new key: once the files can be written, run: keys use it"


def test_using_the_other_key(scene: Scene, tmp_path: Path) -> None:
    key = scene.key("application", SECONDARY)
    done = use_key(
        lambda: KeySource.of_registry(scene.registry, "orders", "application", SECONDARY),
        "orders",
        "application",
        update=[scene.files.application],
        out=tmp_path / "out",
    )
    assert (done.key, done.updated, done.incomplete) == (key, (scene.files.application,), None)
    assert load_connection_string(scene.files.application).key == key
    # And on another machine, from the file that has only the key.
    regenerate_key(scene.registry, "orders", "application", PRIMARY)
    string = load_connection_string(scene.files.application)
    use_key(
        lambda: KeySource.of_key_file(tmp_path / "out", "application"),
        "orders",
        "application",
        update=[scene.files.application],
    )
    assert load_connection_string(scene.files.application) == string


@pytest.mark.parametrize("source", ["key file for an authority file", "string instead of authority", "revoked"])
def test_a_key_that_cannot_be_used(scene: Scene, tmp_path: Path, source: str) -> None:
    (tmp_path / "key").write_text(generate_key().reveal())
    scene.store.revoke_key("orders", "application", SECONDARY)
    before = scene.files.application.read_bytes(), scene.files.authority.read_bytes()

    def read_source() -> KeySource:
        match source:
            case "revoked":
                return KeySource.of_registry(scene.registry, "orders", "application", SECONDARY)
            case "string instead of authority":
                return KeySource.of_authority_file(scene.files.application, "orders", "application", PRIMARY)
        return KeySource.of_key_file(tmp_path / "key", "application")

    with pytest.raises(ConfigurationError) as caught:
        use_key(read_source, "orders", "application", update=[scene.files.application, scene.files.authority])
    assert caught.value.remedy is not None
    assert (scene.files.application.read_bytes(), scene.files.authority.read_bytes()) == before


def test_revoking_returns_what_has_ended_and_whether_another_key_is_left(scene: Scene) -> None:
    old, called = scene.key("application", SECONDARY), []
    done = revoke_key(
        scene.registry, "orders", "application", SECONDARY, before_change=lambda: called.append(scene.store.list())
    )
    assert (done.ended, done.hosts, done.has_other_key) == (key_fingerprint(old), ("a.example.com",), True)
    ((before,),) = called
    rule = before.rule("application")
    assert rule is not None
    assert rule.secondary == old
    assert revoke_key(scene.registry, "orders", "application", SECONDARY).ended is None
    assert not revoke_key(scene.registry, "orders", "application", PRIMARY).has_other_key
    with pytest.raises(ConfigurationError, match="no rule"):
        revoke_key(scene.registry, "orders", "absent", PRIMARY)


# --- rolls


def test_a_roll_begins_at_the_relay_and_in_the_authority_file(scene: Scene, tmp_path: Path) -> None:
    old, steps = scene.key("application", PRIMARY), Steps(scene)
    before = scene.files.application.read_text()
    done = roll_key(
        scene.registry,
        "orders",
        "application",
        seconds=60.0,
        update=[scene.files.authority],
        out=tmp_path / "out",
        before_change=steps.before_change,
    )
    assert (done.slot, done.old, done.hosts) == (SECONDARY, key_fingerprint(old), ("a.example.com",))
    assert scene.key("application", PRIMARY) == old
    assert scene.key("application", SECONDARY) == done.key
    assert scene.files.application.read_text() == before  # the program itself gets the key
    assert KeySource.of_authority_file(scene.files.authority, "orders", "application", SECONDARY).rule == (
        scene.store.rule("orders", "application")
    )
    assert (tmp_path / "out").read_text() == done.key.reveal() + "\n"
    assert (steps.key_at_call, steps.new_files) == (old, ["out"])
    roll = scene.store.get("orders").roll("application")
    assert roll is not None
    assert (roll.slot, roll.ends_at - roll.started_at, roll.waits) == (SECONDARY, 60.0, False)

    # At another relay, the same key; here it is there already.
    with pytest.raises(ConfigurationError, match="is already being rolled"):
        roll_key(scene.registry, "orders", "application", seconds=60.0, key_file=tmp_path / "out")


def test_the_only_key_is_rolled_whichever_it_is(scene: Scene) -> None:
    revoke_key(scene.registry, "orders", "application", PRIMARY)
    done = roll_key(scene.registry, "orders", "application", seconds=60.0, waits=True)
    assert done.slot is PRIMARY
    assert scene.key("application", PRIMARY) == done.key


def test_rolls_that_change_nothing(scene: Scene) -> None:
    before = scene.store.get("orders")
    with pytest.raises(ConfigurationError, match="is a connection string file"):
        roll_key(scene.registry, "orders", "application", seconds=60.0, update=[scene.files.application])
    with pytest.raises(ConfigurationError, match="has no rule"):
        roll_key(scene.registry, "orders", "nobody", seconds=60.0)
    with pytest.raises(ConfigurationError):
        roll_key(scene.registry, "nothing", "application", seconds=60.0)
    assert scene.store.get("orders") == before
    for slot in KeySlot:
        revoke_key(scene.registry, "orders", "application", slot)
    with pytest.raises(ConfigurationError, match="rule application has no key"):
        roll_key(scene.registry, "orders", "application", seconds=60.0)
    with pytest.raises(ConfigurationError, match="is revoked"):
        roll_key(scene.registry, "orders", "application", old=PRIMARY, seconds=60.0)
