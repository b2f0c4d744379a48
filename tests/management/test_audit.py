"""The audit log: its files, and what the API shows of them."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import msgspec
import pytest
import trio
import trio.testing

from hybridrelay.events import ClaimTaken, Event, EventStream, ManagementCalled, ManagementCallRefused
from hybridrelay.management import Caller
from hybridrelay.management.audit_entries import AuditEntry, AuditFilter, Kind
from hybridrelay.management.audit_files import AuditFiles, Line
from hybridrelay.management.audit_log import ManagementAuditLog
from hybridrelay.management.callers import Scope
from hybridrelay.security import ManagementRole

from .conftest import Api, serve_api

ALL = AuditFilter()


def called(operation: str = "putHybridConnection", **more: object) -> ManagementCalled:
    event = ManagementCalled(
        operation_id=operation, peer="local", request_id="r", connection="orders", status=200,
        caller="local uid 1000", role="admin",
    )  # fmt: skip
    return attrs.evolve(event, **more)  # type: ignore[arg-type]


def refused(operation: str = "drainRelay") -> ManagementCallRefused:
    return ManagementCallRefused(operation_id=operation, peer="192.0.2.1", request_id="r", status=401)


@attrs.define
class Clock:
    """Seconds since 1970."""

    now: float = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def events() -> list[Event]:
    """What the log publishes."""
    return []


@pytest.fixture
def log(tmp_path: Path, events: list[Event]) -> ManagementAuditLog:
    return ManagementAuditLog(tmp_path, clock=Clock(), events=EventStream(events.append))


def line(number: int, text: str = "x" * 50) -> Line:
    return Line(number, json.dumps({"number": number, "text": text}).encode())


# --- files


def test_lines_are_read_backwards_over_several_files(tmp_path: Path) -> None:
    files = AuditFiles(tmp_path / "audit", "calls", max_bytes=1000, kept=4)
    for start in range(1, 301, 3):
        files.append([line(number) for number in range(start, start + 3)])
    names = sorted((tmp_path / "audit").iterdir())
    assert len(names) == 4
    assert all(900 < path.stat().st_size < 1300 for path in names[:-1])
    numbers = [one.number for one in files.before(2**63)]
    assert numbers == list(range(300, numbers[-1] - 1, -1))
    assert names[0].name == f"calls-{numbers[-1]:020}.jsonl", "whole files are deleted, the oldest first"
    for before in (*range(numbers[-1] - 1, 302), 1000):
        assert next((one.number for one in files.before(before)), None) == (
            min(before - 1, 300) if before > numbers[-1] else None
        )
    if sys.platform != "win32":
        assert {stat.S_IMODE(path.stat().st_mode) for path in names} == {0o600}


def test_a_long_file_is_not_read_from_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = AuditFiles(tmp_path, "calls", max_bytes=2**30, kept=4)
    files.append([line(number, "y" * (number % 300)) for number in range(1, 5001)])
    monkeypatch.setattr("hybridrelay.management.audit_files._BLOCK", 1000)
    for before in (1, 2, 3, 4, 100, 2500, 4999, 5000, 5001, 9999):
        found = files.before(before)
        expected = min(before - 1, 5000)
        assert [one.number for one, _ in zip(found, range(3), strict=False)] == [
            number for number in (expected, expected - 1, expected - 2) if number > 0
        ]
    assert sum(1 for _ in files.before(5001)) == 5000


def test_damaged_lines_are_left_out(tmp_path: Path) -> None:
    files = AuditFiles(tmp_path, "calls", max_bytes=2**20, kept=4)
    files.append([line(1), line(2)])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes() + b'{"number": 3, "te')  # the relay was killed
    files.append([line(4)])
    path.write_bytes(path.read_bytes() + b"\xff\n[]\n" + b"z" * 200_000)
    assert [one.number for one in files.before(2**63)] == [4, 2, 1]
    (tmp_path / "calls-mine.jsonl").touch()
    (tmp_path / "other.jsonl").touch()
    assert files.last_number() == 4
    files.append([line(5)])
    assert files.last_number() == 5


# --- the log


async def test_calls_are_written_and_read_back(log: ManagementAuditLog, tmp_path: Path) -> None:
    log(called("putHybridConnection"))
    log(refused())
    log(called("deleteToken", connection="", token="a" * 8, caller="token ci 12345678", status=403))
    page = await log.read(ALL, 10)
    assert [(one.operation, one.caller, one.status) for one in page.entries] == [
        ("deleteToken", "token ci 12345678", 403),
        ("drainRelay", "", 401),
        ("putHybridConnection", "local uid 1000", 200),
    ]
    assert page.next_before is None
    assert page.entries[0].time > page.entries[1].time
    kinds = {path.name.rpartition("-")[0] for path in (tmp_path / "audit").iterdir()}
    assert kinds == {"calls", "without-effect", "refused"}
    later = ManagementAuditLog(tmp_path, clock=Clock(2000), events=EventStream())
    later(called("later"))
    assert [one.operation for one in (await later.read(ALL, 2)).entries] == ["later", "deleteToken"]


async def test_pages_do_not_overlap_and_filters_choose_entries(log: ManagementAuditLog) -> None:
    for number in range(25):
        log(
            called("even" if number % 2 == 0 else "odd", connection=f"c{number % 3}", caller=f"token t{number % 5} x")
        )
    first = await log.read(ALL, 10)
    assert first.next_before is not None
    log(called("meanwhile"))
    second = await log.read(ALL, 10, first.next_before)
    third = await log.read(ALL, 10, second.next_before)
    numbers = [one.number for page in (first, second, third) for one in page.entries]
    assert numbers == sorted(set(numbers), reverse=True)
    assert (len(numbers), third.next_before) == (25, None)
    for wanted, count in (
        (AuditFilter(operation="odd"), 12),
        (AuditFilter(connection="c0"), 9),
        (AuditFilter(caller="token t1"), 5),
        (AuditFilter(caller="local"), 1),
        (AuditFilter(since=first.entries[-1].time), 11),
        (AuditFilter(may_see=lambda name: name == "c1"), 8),
    ):
        assert len((await log.read(wanted, 100)).entries) == count, wanted


async def test_a_request_looks_at_a_limited_number_of_lines(
    log: ManagementAuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridrelay.management.audit_entries._MAX_SCANNED", 10)
    for number in range(35):
        log(called("rare" if number == 0 else "frequent"))
    wanted, before = AuditFilter(operation="rare"), None
    pages: list[int] = []
    while not pages or before is not None:
        page = await log.read(wanted, 100, before)
        pages.append(len(page.entries))
        before = page.next_before
    assert pages == [0, 0, 0, 1]


async def test_lines_of_a_later_version_count_as_well(
    log: ManagementAuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the limit is reached, because otherwise the whole log is examined."""
    monkeypatch.setattr("hybridrelay.management.audit_entries._MAX_SCANNED", 10)
    for _ in range(35):
        log(called("frequent"))
    await log.read(AuditFilter(), 1)  # everything was written
    decode, entries = msgspec.json.decode, 0

    def of_later_version(data: bytes, *, type: type) -> object:  # noqa: A002
        nonlocal entries
        if type is not AuditEntry:
            return decode(data, type=type)
        entries += 1
        raise msgspec.DecodeError

    monkeypatch.setattr(msgspec.json, "decode", of_later_version)
    page = await log.read(AuditFilter(), 100)
    assert (page.entries, entries) == ((), 10)
    assert page.next_before is not None


async def test_strangers_do_not_displace_known_callers(
    log: ManagementAuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:

    def small(directory: Path, kind: Kind) -> AuditFiles:
        return AuditFiles(directory, kind.value[0], *((2000, 2) if kind is Kind.REFUSED else kind.value[1:]))

    monkeypatch.setattr("hybridrelay.management.audit_log.files_of", small)
    log(called("mine"))
    for _ in range(100):
        log(refused())
        await log.flush()
    page = await log.read(ALL, 1000)
    assert page.entries[-1].operation == "mine"
    assert len(page.entries) < 60


@pytest.mark.parametrize("has_scope", [False, True])
async def test_logins_of_one_caller_do_not_displace_those_of_another(
    log: ManagementAuditLog, monkeypatch: pytest.MonkeyPatch, has_scope: bool
) -> None:
    def small(directory: Path, kind: Kind) -> AuditFiles:
        return AuditFiles(directory, kind.value[0], 5000, 2)

    monkeypatch.setattr("hybridrelay.management.audit_log.files_of", small)
    log(called("logIn", caller="token a", has_scope=has_scope))
    for number in range(200):
        log(called(("logIn", "logOut")[number % 2], caller="token v", role="viewer", has_scope=has_scope))
    await log.flush()
    page = await log.read(ALL, 1000)
    assert page.entries[-1].caller == "token a"


@pytest.mark.parametrize(
    ("flood", "remains"),
    [
        (called(caller="token v", role="viewer", status=403), True),
        (called(caller="token v", role="viewer", status=403, has_scope=True), True),
        (called(caller="token o", status=404), True),
        (called(caller="token o", unchanged=True), True),
        (called(caller="sas orders", has_scope=True), True),
        (called(caller="sas orders", has_scope=True, status=500), True),
        (ClaimTaken(connection="orders", claim="5" * 32, peer="192.0.2.1"), True),
        (called("logIn", caller="token v", role="viewer"), True),
        (called("logOut", caller="token v", role="viewer"), True),
        (called("logIn", caller="token v", role="viewer", has_scope=True), True),
        (called(caller="token a"), False),
        (called(caller="token a", status=0), False),
    ],
)
async def test_only_what_may_change_the_whole_relay_displaces_such_calls(
    log: ManagementAuditLog, monkeypatch: pytest.MonkeyPatch, flood: Event, remains: bool
) -> None:
    def small(directory: Path, kind: Kind) -> AuditFiles:
        return AuditFiles(directory, kind.value[0], 2000, 2)

    monkeypatch.setattr("hybridrelay.management.audit_log.files_of", small)
    log(called("mine"))
    for _ in range(100):
        log(flood)
    await log.flush()
    page = await log.read(ALL, 1000)
    assert ("mine" in {entry.operation for entry in page.entries}) is remains
    assert 5 < len(page.entries) < 60, "the flood displaces its own entries"


async def test_what_had_no_effect_displaces_no_call_with_a_scope(
    log: ManagementAuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "hybridrelay.management.audit_log.files_of",
        lambda directory, kind: AuditFiles(directory, kind.value[0], 2000, 2),
    )
    log(called("mine", has_scope=True))
    for _ in range(100):
        log(called(status=403, has_scope=True))
    await log.flush()
    assert (await log.read(ALL, 1000)).entries[-1].operation == "mine"


async def test_a_disk_that_is_full(
    log: ManagementAuditLog,
    events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
) -> None:
    """It is an event once, everything is kept meanwhile, and nothing is written twice."""
    real = AuditFiles.append
    failing = [True]

    def append(self: AuditFiles, lines: object) -> None:
        if failing[0]:
            raise OSError(28, "No space left on device")
        real(self, lines)  # type: ignore[arg-type]

    async def run_at_once(function: Callable[..., object], *arguments: object, **more: object) -> object:
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    monkeypatch.setattr("hybridrelay.management.audit_log.run_in_thread", run_at_once)  # time passes meanwhile
    monkeypatch.setattr(AuditFiles, "append", append)
    nursery.start_soon(log.run)
    log(called("one"))
    await trio.sleep(200)
    log(called("two"))
    assert [event.name for event in events] == ["state-file.not-written"]
    page = await log.read(ALL, 10)
    assert [one.operation for one in page.entries] == ["two", "one"], "they can be read meanwhile"
    assert [one.operation for one in (await log.read(ALL, 10, page.entries[0].number)).entries] == ["one"]
    problem = log.problem
    assert problem is not None
    assert (problem.code, problem.remedy) == ("audit", "free space on the disk of the state directory")
    assert "No space left on device; 2 entries are waiting" in problem.detail
    failing[0] = False
    await trio.sleep(100)
    assert log.problem is None
    assert [event.name for event in events] == ["state-file.not-written", "state-file.written"]
    assert [one.operation for one in (await log.read(ALL, 10)).entries] == ["two", "one"]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "flood", [refused(), called("f", status=409), called("f", has_scope=True), called("logIn", caller="token v")]
)
async def test_what_waits_for_the_disk_displaces_only_its_own_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flood: Event
) -> None:
    def append(self: AuditFiles, lines: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hybridrelay.management.audit_log._MAX_WAITING", 5)
    log = ManagementAuditLog(tmp_path, clock=Clock(), events=EventStream())
    with monkeypatch.context() as full:
        full.setattr(AuditFiles, "append", append)
        log(called("before"))
        for _ in range(10):
            log(flood)
        log(called("after"))
        with pytest.raises(OSError, match="No space"):
            await log.flush()
        waiting = (await log.read(ALL, 100)).entries
    await log.flush()
    entries = (await log.read(ALL, 100)).entries
    assert entries == waiting
    assert len(entries) == 7
    assert (entries[0].operation, entries[-1].operation) == ("after", "before"), "in the order of the calls"


# --- the operation


@pytest.fixture
async def audited(api: Api, log: ManagementAuditLog, nursery: trio.Nursery) -> Api:
    """The same API, with an audit log."""
    managed = attrs.evolve(api.managed, audit=log)
    managed.events.subscribe(log)
    return await serve_api(attrs.evolve(api, managed=managed), Caller("test", "admin", ManagementRole.ADMIN), nursery)


async def test_the_api_shows_its_own_log(audited: Api, nursery: trio.Nursery) -> None:
    viewer = await serve_api(audited, Caller("test", "viewer", ManagementRole.VIEWER), nursery)
    for name in ("team%2Fa", "other"):
        await audited.call("PUT", f"/v1/hybridConnections/{name}", {"endpoints": ["relay.example.com"]})
    await viewer.call("DELETE", "/v1/hybridConnections/other")
    await audited.call("POST", "/v1/relay/drain")
    answer, page = await viewer.call("GET", "/v1/audit")
    assert answer.status == 200
    assert [(one["operation"], one["connection"], one["status"]) for one in page["value"]] == [
        ("drainRelay", "", 200),
        ("deleteHybridConnection", "other", 403),
        ("putHybridConnection", "other", 201),
        ("putHybridConnection", "team/a", 201),
    ]
    assert page["value"][1]["caller"] == "test viewer"
    assert page["nextCursor"] is None
    _, page = await viewer.call("GET", "/v1/audit?limit=1&caller=test%20admin&operation=putHybridConnection")
    assert [one["connection"] for one in page["value"]] == ["other"]
    _, page = await viewer.call(
        "GET", f"/v1/audit?limit=1&caller=test%20admin&operation=putHybridConnection&cursor={page['nextCursor']}"
    )
    assert [one["connection"] for one in page["value"]] == ["team/a"]
    scoped = await serve_api(audited, Caller("test", "s", ManagementRole.VIEWER, Scope("team/")), nursery)
    _, page = await scoped.call("GET", "/v1/audit")
    assert [one["connection"] for one in page["value"]] == ["team/a"]
    for query in ("limit=0", "cursor=x", "since=-1", "color=red"):
        assert (await viewer.call("GET", f"/v1/audit?{query}"))[0].status == 400


async def test_what_changes_nothing_is_recorded_as_such(audited: Api, log: ManagementAuditLog) -> None:
    orders = "/v1/hybridConnections/orders"
    rule = f"{orders}/authorizationRules/r"
    edition: dict[str, object] = {"connections": 7, "limits": {}}
    of_relay = "/v1/relay/edition"
    put: dict[str, object] = {"endpoints": ["relay.example.com"], "description": "x"}
    patch: dict[str, object] = {"description": "x"}
    secondary: dict[str, object] = {"slot": "secondary", "generation": 0}
    _, created = await audited.call("POST", "/v1/tokens", {"name": "ci", "role": "viewer"})
    token = created["value"]["id"]
    calls: list[tuple[str, str, dict[str, object] | None, bool]] = [
        ("PUT", orders, put, False),
        ("PUT", orders, put, True),
        ("PATCH", orders, patch, True),
        ("PATCH", orders, {"description": "y"}, False),
        ("PUT", rule, {"rights": ["Send"]}, False),
        ("PUT", rule, {"rights": ["Send"]}, True),
        ("PUT", rule, {"rights": ["Listen"]}, False),
        ("POST", f"{rule}/revokeKeys", {"slot": "secondary", "generation": 2}, False),
        ("POST", f"{rule}/revokeKeys", secondary, True),
        ("POST", f"{rule}/regenerateKeys", secondary, False),
        ("POST", f"{rule}/listKeys", None, False),
        ("DELETE", rule, None, False),
        ("DELETE", rule, None, True),
        ("PUT", "/v1/editions/free", edition, False),
        ("PUT", "/v1/editions/free", edition, True),
        ("PUT", of_relay, {"edition": "free"}, False),
        ("PUT", of_relay, {"edition": "free"}, True),
        ("POST", "/v1/relay/drain", None, False),
        ("POST", "/v1/relay/drain", None, True),
        ("DELETE", "/v1/relay/drain", None, False),
        ("DELETE", "/v1/relay/drain", None, True),
        ("DELETE", orders, None, False),
        ("DELETE", orders, None, True),
        ("DELETE", f"/v1/tokens/{token}", None, False),
        ("DELETE", f"/v1/tokens/{token}", None, True),
    ]
    for method, path, body, unchanged in calls:
        if path.endswith("revokeKeys") and not unchanged:
            _, keys = await audited.call("POST", f"{rule}/listKeys")
            body = {"slot": "secondary", "generation": keys["secondaryGeneration"]}
        answer, text = await audited.call(method, path, body)
        assert answer.status < 300, (method, path, text)
        (entry,) = (await log.read(ALL, 1)).entries
        assert entry.unchanged is unchanged, (method, path, body)
    assert [one.token for one in (await log.read(ALL, 100)).entries if one.operation == "createToken"] == [token]


async def test_an_audit_log_that_cannot_be_read(audited: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(AuditFiles, "before", fail)
    answer, problem = await audited.call("GET", "/v1/audit")
    assert (answer.status, problem["type"]) == (503, "urn:hybridrelay:problem:unavailable")


async def test_an_entry_that_was_written_by_a_failed_attempt_is_shown_once(
    log: ManagementAuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = AuditFiles.append

    def append(self: AuditFiles, lines: object) -> None:
        real(self, lines)  # type: ignore[arg-type]
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(AuditFiles, "append", append)
    for name in ("one", "two"):
        log(called(name))
        with pytest.raises(OSError, match="Input/output error"):
            await log.flush()
    assert [one.operation for one in (await log.read(ALL, 10)).entries] == ["two", "one"]


async def test_that_nothing_is_recorded_is_a_problem_of_the_relay(
    audited: Api, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    def append(self: AuditFiles, lines: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AuditFiles, "append", append)
    await audited.call("POST", "/v1/relay/drain")
    _, page = await audited.call("GET", "/v1/audit")
    assert [one["operation"] for one in page["value"]] == ["drainRelay"]
    _, relay = await audited.call("GET", "/v1/relay")
    assert [one["code"] for one in relay["problems"]] == ["draining", "audit"]
    scoped = await serve_api(audited, Caller("test", "s", ManagementRole.VIEWER, Scope("team/")), nursery)
    _, relay = await scoped.call("GET", "/v1/relay")
    assert [one["code"] for one in relay["problems"]] == ["draining"]
    monkeypatch.undo()
    await audited.call("GET", "/v1/audit")
    _, relay = await audited.call("GET", "/v1/relay")
    assert [one["code"] for one in relay["problems"]] == ["draining"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such links by default")
async def test_a_symbolic_link_is_not_followed(log: ManagementAuditLog, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / f"calls-{1:020}.jsonl").symlink_to(victim)
    log(called("one"))
    with pytest.raises(OSError, match="symbolic link"):
        await log.flush()
    assert victim.read_bytes() == b""


async def test_a_clock_that_is_behind_the_last_entry_loses_none(tmp_path: Path) -> None:
    """The machine has restarted, and its clock is or was wrong."""
    for now in (5_000_000.0, 1000.0, 2_000_000.0):
        log = ManagementAuditLog(tmp_path, clock=Clock(now), events=EventStream(list[Event]().append))
        log(called(f"at {now:.0f}"))
        log(refused(f"refused at {now:.0f}"))
        await log.flush()
    page = await log.read(AuditFilter(), 100)
    assert [entry.operation for entry in page.entries] == [
        "refused at 2000000", "at 2000000", "refused at 1000", "at 1000", "refused at 5000000", "at 5000000",
    ]  # fmt: skip
    numbers = [entry.number for entry in page.entries]
    assert numbers == sorted(set(numbers), reverse=True)
    page = await log.read(AuditFilter(since=3_000_000.0), 100)
    assert [entry.operation for entry in page.entries] == ["refused at 5000000", "at 5000000"]


async def test_a_line_with_an_impossible_number_is_ignored(log: ManagementAuditLog, tmp_path: Path) -> None:
    log(called("before"))
    await log.flush()
    (file,) = (tmp_path / "audit").iterdir()
    with file.open("ab") as opened:
        opened.write(line(2**63 - 1).data + b"\n")
        opened.write(b'{"number":1,"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}\n")
    log(called("after"))
    await log.flush()
    page = await log.read(AuditFilter(), 100)
    assert [entry.operation for entry in page.entries] == ["after", "before"]
