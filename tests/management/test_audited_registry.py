"""Commands that use the store of a relay that is not running record what they do in its audit log."""

from __future__ import annotations

import logging
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from hybridrelay.administration import RelayDescription, StoreRegistry, revoke_token
from hybridrelay.events import Event, EventStream, ManagementCalled
from hybridrelay.management.audit_entries import DIRECTORY, AuditEntry, AuditFilter, read_audit
from hybridrelay.management.audit_files import AuditFiles
from hybridrelay.management.audit_log import ManagementAuditLog
from hybridrelay.management.audited_registry import AuditedRegistry
from hybridrelay.management.handlers import OPERATIONS
from hybridrelay.relay import RelayRecord, SQLiteStore
from hybridrelay.relay.quotas import Limits, Quota
from hybridrelay.relay.store.store import ChangedMeanwhile, NameTaken, NotFound
from hybridrelay.security import KeySlot, ManagementRole, Right, Rule, generate_key

RECORD = RelayRecord("orders", ["relay.example.com"], [Rule.generate("application", {Right.SEND})])


@pytest.fixture
def registry(tmp_path: Path) -> AuditedRegistry:
    """The registry of a relay that is not running."""
    return AuditedRegistry(StoreRegistry(state_dir=tmp_path / "state", create=True), tmp_path / "state")


def entries(tmp_path: Path) -> list[AuditEntry]:
    """All entries, the first one first."""
    return list(reversed(read_audit(tmp_path / "state", AuditFilter(), 1000).entries))


def test_each_change_is_recorded(registry: AuditedRegistry, tmp_path: Path) -> None:
    assert isinstance(registry.prepare(now=1e9), RelayDescription)
    registry.import_(RECORD)
    registry.change(registry.connection("orders"), disabled=True)
    registry.change(registry.connection("orders"), quota=Quota("", Limits(sessions=3)))
    registry.put_rule(registry.connection("orders"), "other", [Right.LISTEN])
    registry.put_rule(registry.connection("orders"), "other", [Right.SEND])
    registry.delete_rule(registry.connection("orders"), "other")
    registry.rule_with_keys("orders", "application")
    for slot in KeySlot:
        generation = registry.connection("orders").rule("application").keys[slot].generation
        registry.regenerate_key("orders", "application", slot, generate_key(), generation=generation)
    generation = registry.connection("orders").rule("application").keys[KeySlot.PRIMARY].generation
    registry.revoke_key("orders", "application", KeySlot.PRIMARY, generation=generation)
    registry.change_edition(registry.editions().by_name["free"], connections=7, limits=Limits())
    registry.use_edition("free")
    token, _ = registry.create_token("ci", ManagementRole.VIEWER, scope="", seconds=60.0, now=1e9)
    registry.delete_token(token.id)
    registry.delete(registry.connection("orders"))
    found = entries(tmp_path)
    assert [(one.operation, one.status, one.connection, one.rule, one.token) for one in found] == [
        ("putHybridConnection", 201, "orders", "", ""),
        ("patchHybridConnection", 200, "orders", "", ""),
        ("patchHybridConnection", 200, "orders", "", ""),
        ("putAuthorizationRule", 201, "orders", "other", ""),
        ("putAuthorizationRule", 200, "orders", "other", ""),
        ("deleteAuthorizationRule", 204, "orders", "other", ""),
        ("listKeys", 200, "orders", "application", ""),
        ("regenerateKeys", 200, "orders", "application", ""),
        ("regenerateKeys", 200, "orders", "application", ""),
        ("revokeKeys", 204, "orders", "application", ""),
        ("putEdition", 200, "", "", ""),
        ("putEditionOfRelay", 200, "", "", ""),
        ("createToken", 201, "", "", token.id),
        ("deleteToken", 204, "", "", token.id),
        ("deleteHybridConnection", 204, "orders", "", ""),
    ]
    assert not any(one.unchanged for one in found)
    assert {one.operation for one in found} <= {row.id for row in OPERATIONS if row.is_audited}
    assert [one.number for one in found] == sorted({one.number for one in found})
    for path in (tmp_path / "state" / "audit").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600 or sys.platform == "win32"


def test_a_change_to_what_is_there_already_is_recorded_as_one(registry: AuditedRegistry, tmp_path: Path) -> None:
    registry.import_(RECORD)
    attempts: list[tuple[Callable[[], object], Callable[[], object]]] = [
        (
            lambda: registry.change(registry.connection("orders"), disabled=True),
            lambda: registry.change(registry.connection("orders"), disabled=False),
        ),
        (
            lambda: registry.put_rule(registry.connection("orders"), "other", [Right.SEND]),
            lambda: registry.put_rule(registry.connection("orders"), "other", [Right.LISTEN]),
        ),
        (lambda: registry.use_edition("free"), lambda: registry.use_edition("")),
        (
            lambda: registry.change_edition(registry.editions().by_name["free"], connections=7, limits=Limits()),
            lambda: registry.change_edition(registry.editions().by_name["free"], connections=8, limits=Limits()),
        ),
        (
            lambda: registry.revoke_key(
                "orders",
                "application",
                KeySlot.SECONDARY,
                generation=registry.connection("orders").rule("application").keys[KeySlot.SECONDARY].generation,
            ),
            lambda: registry.regenerate_key("orders", "application", KeySlot.SECONDARY, generate_key(), generation=0),
        ),
    ]
    for change, another in attempts:
        for attempt, unchanged in ((change, False), (change, True), (another, False), (change, False)):
            attempt()
            assert entries(tmp_path)[-1].unchanged is unchanged, entries(tmp_path)[-1].operation


def test_refused_changes_are_recorded(registry: AuditedRegistry, tmp_path: Path) -> None:
    registry.import_(RECORD)
    old = registry.connection("orders")
    registry.change(old, disabled=True)
    attempts: list[tuple[Callable[[], object], type[Exception], int]] = [
        (lambda: registry.import_(RECORD), NameTaken, 409),
        (lambda: registry.change(old, disabled=False), ChangedMeanwhile, 409),
        (lambda: registry.rule_with_keys("orders", "nothing"), NotFound, 404),
    ]
    for attempt, error, status in attempts:
        with pytest.raises(error):
            attempt()
        assert (entries(tmp_path)[-1].status, entries(tmp_path)[-1].unchanged) == (status, False)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such links by default")
def test_a_lock_file_that_is_a_link_is_not_followed(
    registry: AuditedRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    victim, directory = tmp_path / "victim", tmp_path / "state" / DIRECTORY
    registry.import_(RECORD)
    for file in directory.iterdir():
        file.unlink()
        file.symlink_to(victim)
    with caplog.at_level(logging.WARNING):
        registry.change(registry.connection("orders"), disabled=True)
    assert not victim.exists()
    assert str(directory) in caplog.text


def test_a_name_that_is_also_an_id_is_refused_and_recorded(registry: AuditedRegistry, tmp_path: Path) -> None:
    one, _ = registry.create_token("ci", ManagementRole.VIEWER, scope="", seconds=60.0, now=1e9)
    other, _ = registry.create_token(one.id, ManagementRole.VIEWER, scope="", seconds=60.0, now=1e9)
    with pytest.raises(NotFound, match="is the name of one token and the id of another"):
        revoke_token(registry, one.id)
    assert {token.id for token in registry.tokens()} == {one.id, other.id}
    last = entries(tmp_path)[-1]
    assert (last.operation, last.status) == ("deleteToken", 404)
    assert one.id in last.token
    assert other.id in last.token


def test_where_there_is_no_relay_nothing_is_made(tmp_path: Path) -> None:
    registry = AuditedRegistry(StoreRegistry(state_dir=tmp_path / "state"), tmp_path / "state")
    with pytest.raises(Exception, match="does not exist"):
        registry.rule_with_keys("orders", "application")
    assert not (tmp_path / "state").exists()


async def test_a_relay_that_runs_meanwhile_loses_nothing(registry: AuditedRegistry, tmp_path: Path) -> None:
    """It has started after a command had found that none runs."""

    def called(name: str) -> ManagementCalled:
        return ManagementCalled(
            operation_id=name, peer="local", request_id="x", connection="", rule="", token="", status=200,
            caller="local uid 1", role="admin",
        )  # fmt: skip

    registry.import_(RECORD)
    log = ManagementAuditLog(tmp_path / "state", clock=lambda: 1000.0, events=EventStream(list[Event]().append))
    log(called("first"))
    await log.flush()
    await trio.to_thread.run_sync(registry.use_edition, "free")
    log(called("second"))
    await log.flush()
    page = await log.read(AuditFilter(), 10)
    assert sorted(one.operation for one in page.entries) == [
        "first", "putEditionOfRelay", "putHybridConnection", "second",
    ]  # fmt: skip
    assert page.entries[-1].operation == "putHybridConnection"
    again = ManagementAuditLog(tmp_path / "state", clock=lambda: 1000.0, events=EventStream(list[Event]().append))
    again(called("after a restart"))
    await again.flush()
    assert (await again.read(AuditFilter(), 1)).entries[0].operation == "after a restart"


def test_two_commands_at_once_lose_nothing(tmp_path: Path) -> None:
    SQLiteStore.open(tmp_path / "state").close()

    def change(number: int) -> None:
        with StoreRegistry(state_dir=tmp_path / "state") as store:
            AuditedRegistry(store, tmp_path / "state").use_edition(("free", "basic")[number % 2])

    threads = [threading.Thread(target=change, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.number for one in entries(tmp_path)}) == 8


def test_two_commands_that_record_at_the_same_moment_get_numbers_of_their_own(tmp_path: Path) -> None:
    state = tmp_path / "state"
    SQLiteStore.open(state).close()

    def change(clock: Callable[[], float]) -> None:
        with StoreRegistry(state_dir=state) as store:
            AuditedRegistry(store, state, clock=clock).use_edition("free")

    second = threading.Thread(target=change, args=(lambda: 1000.0,))
    looks = 0

    def clock() -> float:
        """The second look is the one for the number. Meanwhile, the other command does as much as it can."""
        nonlocal looks
        looks += 1
        if looks == 2:
            second.start()
            second.join(0.2)
        return 1000.0

    change(clock)
    second.join()
    assert looks == 2
    assert len({one.number for one in entries(tmp_path)}) == 2


def test_a_change_is_made_although_it_cannot_be_recorded(
    registry: AuditedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A key must be revocable on a full disk."""

    def append(self: AuditFiles, lines: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AuditFiles, "append", append)
    with caplog.at_level(logging.WARNING):
        registry.import_(RECORD)
    assert registry.find("orders") is not None
    assert "No space left on device" in caplog.text
    assert "free space on the disk" in caplog.text
