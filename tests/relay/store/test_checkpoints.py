"""The file with checkpoints of audit logs: what is kept, what is refused, and what is left after a while."""

from __future__ import annotations

import contextlib
import itertools
import random
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hybridrelay.audit.chain import checkpoint_message
from hybridrelay.audit.keys import SigningKey
from hybridrelay.relay.checkpoints import (
    CLIENT_PART,
    FEW_PART,
    FEW_ROWS,
    KEPT_SECONDS,
    LEAST_ROWS,
    MAX_BYTES,
    REPLACING_PART,
    CheckpointQuery,
    CheckpointsFull,
    KeptCheckpoint,
    Pace,
    least_needed,
    row_bytes,
)
from hybridrelay.relay.store import checkpoints as module
from hybridrelay.relay.store.checkpoints import CHECKPOINTS_FILE, CheckpointFile

HOUR, DAY = 3600.0, 86_400.0
NOW = 21_000 * DAY


@pytest.fixture
def file(tmp_path: Path) -> Iterator[CheckpointFile]:
    made = CheckpointFile(tmp_path)
    yield made
    made.close()


def one(seq: int, *, log: str = "0f" * 8, connection: str = "orders", at: float = NOW) -> KeptCheckpoint:
    return KeptCheckpoint(
        connection, log, seq, f"{seq:064x}", "2026-11-30T05:00:00.000Z", "ed25519:k", "sig", "a" * 32, "192.0.2.1", at
    )


def seqs(file: CheckpointFile, **query: object) -> list[int]:
    return [found.seq for found in file.read(CheckpointQuery(10_000, **query))]  # type: ignore[arg-type]


def sweep(file: CheckpointFile, until: float) -> None:
    """Sweep every day, from the last checkpoint on."""
    at = file.read(CheckpointQuery(10_000))[-1].received_at
    while (at := at + DAY) < until:
        file.sweep(at)
    file.sweep(until)


def test_what_was_kept_is_there_after_reopening(file: CheckpointFile, tmp_path: Path) -> None:
    file.keep(one(1))
    file.keep(one(1))  # repeated
    file.keep(attrs.evolve(one(1), head="f" * 64))  # contradicts it: both are evidence
    file.keep(one(2, log="1" * 16, connection="other"))
    file.close()
    with contextlib.closing(CheckpointFile(tmp_path)) as again:
        first, second, third = again.read(CheckpointQuery(10))
        assert first == attrs.evolve(one(1), id=first.id)
        assert (second.head, third.connection) == ("f" * 64, "other")
        assert again.read(CheckpointQuery(1, after=first.id)) == [second]
        assert seqs(again, log_id="1" * 16) == [2]
        assert seqs(again, connection="orders") == [1, 1]
        assert seqs(again, prefix="ot") == [2]
        assert seqs(again, prefix="o_") == []
    assert (tmp_path / CHECKPOINTS_FILE).stat().st_mode & 0o777 == 0o600


def test_a_flood_removes_nothing_and_other_hybrid_connections_are_not_affected(
    file: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 50)
    monkeypatch.setattr(module, "MAX_LOGS", 4)
    file.keep(one(7))
    for number in range(3):
        file.keep(one(number, log=f"{number:016x}"))
    with pytest.raises(CheckpointsFull, match="of 4 audit logs"):
        file.keep(one(1, log="f" * 16))
    for number in range(100, 146):
        file.keep(attrs.evolve(one(number), key="ed25519:forged"))
    with pytest.raises(CheckpointsFull, match="50 checkpoints"):
        file.keep(attrs.evolve(one(1000), key="ed25519:another"))
    file.keep(one(1, connection="other"))
    assert seqs(file, connection="orders")[0] == 7
    assert len(seqs(file, connection="orders")) == 50

    assert file.delete("orders", f"{0:016x}") == 1
    assert file.delete("orders", f"{0:016x}") == 0
    file.keep(one(1, log="f" * 16))


def test_programs_that_are_busy_all_the_time_do_not_use_up_the_room(
    file: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 800)
    monkeypatch.setattr(module, "PRESS_ROWS", 100)
    seq = 0
    for minute in range(0, 36 * 60, 2):
        at = NOW + minute * 60.0
        for log in range(6):
            seq += 1
            file.keep(one(seq, log=f"{log:016x}", at=at + log))
        if minute % 60 == 0:
            file.sweep(at)
    for log in range(6):
        found = file.read(CheckpointQuery(10_000, log_id=f"{log:016x}"))
        times = [each.received_at - log - NOW for each in found]
        assert times[0] == 0.0
        assert times[-31:] == [36 * HOUR - 120.0 * number for number in range(31, 0, -1)]  # all of the last hour
        assert {time // HOUR for time in times if time >= 13 * HOUR} == set(range(13, 36))


def test_a_log_makes_room_only_at_its_own_expense(file: CheckpointFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 40)
    for number in range(20):
        file.keep(one(number, log="1" * 16, at=NOW + number))
        file.keep(attrs.evolve(one(100 + number, log="2" * 16, at=NOW + number), instance="b" * 32))
    with pytest.raises(CheckpointsFull, match="40 checkpoints"):
        file.keep(one(1, log="3" * 16, at=NOW + DAY))  # it has none
    with pytest.raises(CheckpointsFull, match="40 checkpoints"):  # it has none of this instance, and none of this key
        file.keep(attrs.evolve(one(200, log="2" * 16, at=NOW + DAY), key="ed25519:other"))
    assert len(seqs(file)) == 40
    file.keep(one(200, log="1" * 16, at=NOW + DAY))
    assert seqs(file, log_id="1" * 16) == [0, 19, 200]
    assert len(seqs(file, log_id="2" * 16)) == 20


def test_clients_leave_room_for_connectors(file: CheckpointFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLIENT_ROWS", 6)
    monkeypatch.setattr(module, "CLIENT_LOGS", 2)
    for number in range(2):
        file.keep(one(1, log=f"{number:016x}"), for_client=True)
    with pytest.raises(CheckpointsFull, match=r"of 2 audit logs .* reserved for connectors"):
        file.keep(one(1, log="f" * 16), for_client=True)
    file.keep(one(1, log="f" * 16))
    for number in range(2, 5):
        file.keep(one(number, log=f"{0:016x}"), for_client=True)
    with pytest.raises(CheckpointsFull, match=r"6 checkpoints .* reserved for connectors"):
        file.keep(attrs.evolve(one(9, log=f"{0:016x}"), key="ed25519:other"), for_client=True)
    file.keep(one(2, log="f" * 16))


def test_a_full_file_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    with contextlib.closing(CheckpointFile(tmp_path, max_bytes=96 * 1024)) as file:
        kept = 0
        with pytest.raises(CheckpointsFull, match="its limit is reached"):  # noqa: PT012
            for number in range(1000):
                file.keep(one(number, connection=f"c{number}"))
                kept += 1
        assert kept > 50
        assert seqs(file) == list(range(kept))
        assert file.delete("c0", "0f" * 8) == 1


def test_the_first_and_the_last_of_each_interval_are_left(file: CheckpointFile) -> None:
    begin = NOW - 40 * DAY
    for number in range(40 * 24 * 4):  # four each hour
        file.keep(one(number, at=begin + number * 900.0))
    file.sweep(NOW)
    found = file.read(CheckpointQuery(10_000))
    ages = [NOW - each.received_at for each in found]
    assert len([age for age in ages if age <= DAY]) == 24 * 4
    assert len([age for age in ages if DAY < age <= 30 * DAY]) == 29 * 24 * 2
    assert len([age for age in ages if age > 30 * DAY]) == 10 * 2
    assert found[0].seq == 0
    file.sweep(NOW)
    assert len(file.read(CheckpointQuery(10_000))) == len(found)
    sweep(file, NOW + 30 * DAY)
    assert len(seqs(file)) == 40 * 2
    file.keep(one(10**6, at=NOW))  # the counts that limits depend on are right
    sweep(file, NOW + KEPT_SECONDS + 1)
    assert seqs(file) == []
    database = sqlite3.connect(file.file.path)
    assert database.execute("SELECT * FROM logs").fetchall() == []
    database.close()


def test_a_clock_that_is_wrong_for_a_while_deletes_nothing(file: CheckpointFile) -> None:
    for day in range(40):
        for number in range(3):
            file.keep(one(3 * day + number, at=NOW + day * DAY + number))
    end = NOW + 39 * DAY
    file.sweep(end)
    before = len(seqs(file))
    for wrong in (end + 10 * KEPT_SECONDS, end + 10 * KEPT_SECONDS + DAY, 0.0):
        file.keep(one(10**6 + int(wrong), at=wrong))
        file.sweep(wrong)
    assert len(seqs(file)) == before + 3
    for day in range(1, 4):
        file.sweep(end + day * DAY)
    assert len([seq for seq in seqs(file) if seq < 10**6]) < before  # it is right again


def test_logs_and_keys_are_thinned_separately(file: CheckpointFile) -> None:
    for number in range(5):
        file.keep(one(number, at=NOW - 2 * DAY + number))
        file.keep(one(number, at=NOW - 2 * DAY + number, log="1" * 16))
        file.keep(attrs.evolve(one(100 + number, at=NOW - 2 * DAY + number), key="ed25519:other"))
    sweep(file, NOW)
    assert sorted(seqs(file)) == [0, 0, 4, 4, 100, 104]


@pytest.mark.parametrize("thin", ["later", "early"])
def test_nobody_without_the_key_of_a_log_can_have_its_checkpoints_deleted(
    file: CheckpointFile, monkeypatch: pytest.MonkeyPatch, thin: str
) -> None:
    """Somebody adds others to the log, at the beginning and at the end of each hour, with a key of their own; and
    repeats what was deleted, at the end of the hour."""
    if thin == "early":
        monkeypatch.setattr(module, "MAX_ROWS", 200)
    for minute in range(3 * 60):
        at = NOW + minute * 60.0
        forged = attrs.evolve(one(10_000 + minute, at=at), key="ed25519:forged")
        if minute % 60 == 0:
            file.keep(forged)
        file.keep(one(minute, at=at + 1.0))
        if minute % 60 == 59:
            file.keep(attrs.evolve(forged, received_at=at + 2.0))
    if thin == "later":
        sweep(file, NOW + 2 * DAY)
    for hour in range(1, 4):  # genuine ones that were deleted
        for again in range(hour * 60 - 30, hour * 60 - 20):
            file.keep(one(again, at=NOW + hour * HOUR - 1.0))
    file.close()  # so that the next sweep begins at the beginning
    with contextlib.closing(CheckpointFile(file.file.path.parent)) as later:
        sweep(later, NOW + 2 * DAY)
        genuine = [found.seq for found in later.read(CheckpointQuery(1000)) if found.key != "ed25519:forged"]
    assert {0, 59, 60, 119, 120, 179} <= set(genuine)


def test_a_client_makes_no_room_among_the_checkpoints_of_a_connector(
    file: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client may state the same log and instance as the connector."""
    monkeypatch.setattr(module, "CLIENT_ROWS", 40)
    for number in range(40):
        file.keep(one(number, at=NOW + number))
    with pytest.raises(CheckpointsFull):
        file.keep(one(100, at=NOW + DAY), for_client=True)
    assert len(seqs(file)) == 40


@pytest.mark.parametrize("length", [1, 40, 260])
@pytest.mark.parametrize("order", ["up", "random"])
def test_the_size_of_a_checkpoint_is_known(tmp_path: Path, length: int, order: str) -> None:
    key, count = SigningKey.generate(), 1500
    seqs_in_order = list(range(count))
    if order == "random":
        random.Random(1).shuffle(seqs_in_order)
    with contextlib.closing(CheckpointFile(tmp_path)) as file:

        def fill(database: sqlite3.Connection) -> None:
            for number, seq in enumerate(seqs_in_order):
                row = attrs.evolve(
                    one(seq, connection="x" * length, log=f"{number % 48:016x}", at=NOW + number),
                    head=random.Random(seq).randbytes(32).hex(),
                    key=str(key.public),
                    signature="A" * 88,
                    address="2001:db8:1111:2222::/64",
                )
                database.execute(module._INSERT, (*attrs.astuple(row)[:-1], False))

        file.use(fill)
        used = file.use(used_bytes)
    assert 0.75 * row_bytes("x" * length) <= used / count <= row_bytes("x" * length)


def used_bytes(database: sqlite3.Connection) -> int:
    pages, unused, size = (
        database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - unused) * size)


#: How much smaller than in a relay the file and the limits are in the following tests.
SCALE = 32


@pytest.fixture
def scaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CheckpointFile]:
    for name in ("MAX_ROWS", "CLIENT_ROWS", "FEW_ROWS", "PRESS_ROWS", "LEAST_ROWS"):
        monkeypatch.setattr(module, name, max(1, getattr(module, name) // SCALE))
    made = CheckpointFile(tmp_path, MAX_BYTES // SCALE)
    yield made
    made.close()


@pytest.mark.parametrize("length", [5, 260])
@pytest.mark.parametrize("for_client", [True, False], ids=["clients", "connectors"])
def test_many_hybrid_connections_together_leave_room_for_others(
    scaled: CheckpointFile, length: int, for_client: bool
) -> None:
    """They take all that they get, in turn, with another key for each checkpoint, so that nothing is thinned."""
    going_on = [f"a{number}".ljust(length, "x") for number in range(60)]
    for number in range(1000):
        for name in list(going_on):
            row = one(number, connection=name, log=f"{number % 48:016x}")
            row = attrs.evolve(row, key=f"k{number}", instance=f"{number:032x}")
            try:
                scaled.keep(row, for_client=for_client)
            except CheckpointsFull:
                going_on.remove(name)
        if not going_on:
            break
    assert not going_on
    # What is scaled is few, so an honest one keeps as many as this: first the connectors that it has, then a client.
    for other in ("honest", "another"):
        few = FEW_ROWS // SCALE
        for number in range(few):
            scaled.keep(one(number, connection=other))
        assert seqs(scaled, connection=other) == list(range(few))
    with pytest.raises(CheckpointsFull, match="reserved for connectors"):  # noqa: PT012
        for number in range(1000):
            row = attrs.evolve(one(number, connection="third"), key=f"k{number}")
            scaled.keep(row, for_client=True)
    assert len(seqs(scaled, connection="third")) >= int(few * CLIENT_PART)
    scaled.keep(one(1001, connection="third"))


def test_the_first_checkpoints_of_hundreds_of_hybrid_connections_are_kept(scaled: CheckpointFile) -> None:
    for number in range(600):
        name = f"a{number}".ljust(260, "x")
        with contextlib.suppress(CheckpointsFull):
            for seq in range(1000):
                scaled.keep(attrs.evolve(one(seq, connection=name), key=f"k{seq}", instance=f"{seq:032x}"))
        assert 0 in seqs(scaled, connection=name)
    scaled.keep(one(1, connection="honest"))


@pytest.mark.parametrize("length", [6, 260])
def test_a_connector_goes_on_for_days_although_others_have_used_up_all_room(tmp_path: Path, length: int) -> None:
    """It has had a checkpoint every minute for two days when a thousand hybrid connections have taken all they can.
    It begins another file with another key every day, and is started again once, with another instance."""
    file = CheckpointFile(tmp_path, MAX_BYTES // SCALE)
    name = "orders".ljust(length, "x")
    begin = NOW - 2 * DAY
    fill_with(file, name, [begin + minute * 60.0 for minute in range(2 * 1440)])
    file.sweep(NOW)
    before = len(seqs(file, connection=name))
    assert before >= 200
    used_up(file)
    instance = "a" * 32
    at = NOW
    for number in range(600):
        at += 600.0
        if number == 200:
            instance = "b" * 32
        row = one(10_000 + number, connection=name, at=at)
        file.keep(attrs.evolve(row, key=f"ed25519:{int(at // DAY)}", instance=instance))
    found = file.read(CheckpointQuery(10_000, connection=name))
    assert len(found) <= before
    assert (found[0].seq, found[-1].seq) == (0, 10_599)
    # Of what was received, no more than a part of the time since can be hidden.
    for received in [NOW + 600.0 * number for number in range(1, 600)]:
        latest = max(each.received_at for each in found if each.received_at <= received)
        assert received - latest <= (at - received) / 4 + 600.0
    with pytest.raises(CheckpointsFull):  # neither its key nor its instance
        file.keep(attrs.evolve(one(20_000, connection=name, at=at), key="ed25519:forged", instance="c" * 32))
    for number in range(100):  # another hybrid connection begins, and goes on
        file.keep(one(number, connection="new", at=at + 60.0 * number))
    assert len(seqs(file, connection="new")) == LEAST_ROWS
    assert {0, 98, 99} <= set(seqs(file, connection="new"))
    file.close()


def fill_with(file: CheckpointFile, name: str, times: Sequence[float]) -> None:
    """Store checkpoints of one log without looking at the limits."""

    def fill(database: sqlite3.Connection) -> None:
        for seq, at in enumerate(times):
            row = attrs.evolve(one(seq, connection=name, at=at), key=f"ed25519:{int(at // DAY)}")
            database.execute(module._INSERT, (*attrs.astuple(row)[:-1], False))

    file.use(fill)


def used_up(file: CheckpointFile) -> None:
    """Let others use up all the room that hybrid connections with many checkpoints can have."""

    def fill(database: sqlite3.Connection) -> None:
        number = 0
        while used_bytes(database) < MAX_BYTES // SCALE:
            for _ in range(100):
                number += 1
                row = attrs.evolve(one(number, connection=f"other{number % 100}".ljust(260, "x")), key="k" * 52)
                database.execute(module._INSERT, (*attrs.astuple(row)[:-1], False))

    file.use(fill)


@pytest.mark.parametrize(
    ("changes", "for_client", "is_short", "is_kept"),
    [
        ({}, False, False, True),
        ({"seq": 19, "head": f"{19:064x}"}, False, True, True),  # it is stored already
        ({"seq": 19, "head": "f" * 64}, False, True, False),  # anybody may have seen an earlier one, and repeats it
        ({"instance": "b" * 32}, False, False, True),  # the key says whose log it is
        ({"key": "ed25519:other"}, False, False, False),  # another relay may have the instance's secret
        ({"key": "ed25519:other"}, False, True, True),
        ({"key": "ed25519:other", "instance": "b" * 32}, False, True, False),
        ({"log_id": "2" * 16}, False, True, False),
        ({}, True, True, False),  # it may be a client, which has none of these
        ({"connection": "other"}, False, True, True),
    ],
)
def test_which_checkpoint_replaces_another_one(
    file: CheckpointFile,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    for_client: bool,
    is_short: bool,
    is_kept: bool,
) -> None:
    for number in range(20):
        file.keep(one(number, at=NOW + number))
    monkeypatch.setattr(module, "MAX_ROWS", 20)
    monkeypatch.setattr(module, "CLIENT_ROWS", 20)
    monkeypatch.setattr(module, "PRESS_ROWS", 0)
    if is_short:
        monkeypatch.setattr(module, "FEW_PART", 0)
    before = seqs(file)
    row = attrs.evolve(one(20, at=NOW + 20), **changes)  # type: ignore[arg-type]
    with contextlib.nullcontext() if is_kept else pytest.raises(CheckpointsFull, match="20 checkpoints"):
        file.keep(row, for_client=for_client)
    if is_kept and row.seq == 20 and row.connection == "orders":
        assert (len(seqs(file)), seqs(file)[0], seqs(file)[-2:]) == (20, 0, [19, 20])
    else:
        assert seqs(file, connection="orders") == before


@pytest.mark.parametrize(
    ("received", "now", "index"),
    [
        ([], 0.0, None),
        ([0.0], 100.0, None),
        ([0.0, 50.0], 100.0, 1),
        # All have the same distances, so the earliest is needed least: it is the oldest.
        ([0.0, 100.0, 200.0, 300.0], 400.0, 1),
        # Their distances grow with their age.
        ([0.0, 600.0, 900.0, 960.0, 990.0], 1000.0, 4),
        # A clock that was wrong for a moment.
        ([0.0, 100.0, 9e9, 300.0], 400.0, 1),
        ([500.0, 600.0, 1.0, 700.0], 800.0, 1),
    ],
)
def test_which_checkpoint_is_needed_least(received: list[float], now: float, index: int | None) -> None:
    assert least_needed(received, now) == index


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.1, 1.0, 10.0, 60.0, 3600.0, 86_400.0]), min_size=100, max_size=400),
    st.integers(40, 80),
)
def test_what_is_left_after_many_were_replaced(steps: list[float], kept: int) -> None:
    """The first one and the latest ones are left. What was received before any moment can be told from what is left,
    except for a part of the time since."""
    now, received, left = NOW, [NOW], [NOW]
    for step in steps:
        now += step
        if len(left) == kept:
            index = least_needed(left, now)
            assert index is not None
            assert index > 0
            del left[index]
        left.append(now)
        received.append(now)
    assert len(left) == min(kept, len(received))
    assert left[0] == NOW
    for at in received:
        before = max(one for one in left if one <= at)
        assert at - before <= 2 * max(now - at, 60.0)


def test_a_busy_log_is_kept_although_its_hybrid_connection_has_room_for_few(
    file: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", FEW_ROWS)
    at, seq, end = NOW, 0, NOW + 400 * DAY
    while at < end:
        seq += 1
        file.keep(one(seq, at=at))
        # What was thinned is not repeated here for each day: every four hours, there is one. Later, every minute.
        at += 60.0 if at >= end - 2 * DAY else 4 * HOUR
    found = file.read(CheckpointQuery(10_000))
    assert len(found) <= FEW_ROWS
    assert (found[0].seq, found[-1].seq) == (1, seq)
    days = [int(each.received_at // DAY) for each in found]
    assert max(later - earlier for earlier, later in itertools.pairwise(days)) <= 10


class FileMachine(RuleBasedStateMachine):
    """Hybrid connections fill a small file in any order. One that has few checkpoints can add one, none is lost, and
    a log of which two are kept can go on with any of its keys."""

    BYTES = 1 << 20
    FEW = 12
    LEAST = 2
    LOG = "1" * 16
    NAMES = tuple(f"{letter}".ljust(length, letter) for length in (1, 130, 260) for letter in "abcdef")

    def __init__(self) -> None:
        super().__init__()
        self._patch = pytest.MonkeyPatch()
        limits = {
            "MAX_ROWS": 300,
            "CLIENT_ROWS": 225,
            "FEW_ROWS": self.FEW,
            "PRESS_ROWS": 8,
            "LEAST_ROWS": self.LEAST,
        }
        for name, value in limits.items():
            self._patch.setattr(module, name, value)
        self._directory = tempfile.TemporaryDirectory()
        Path(self._directory.name).chmod(0o700)
        self.file = CheckpointFile(Path(self._directory.name), self.BYTES)
        self.kept: dict[str, list[int]] = {name: [] for name in self.NAMES}
        self.keys = Counter[str]()
        self.seq = 0
        for name in self.NAMES:
            for _ in range(2):
                self.seq += 1
                row = one(self.seq, connection=name, log=self.LOG, at=NOW + 60.0 * self.seq)
                self.file.keep(attrs.evolve(row, key=f"key 0 of {name}"))

    def add(self, name: str, *, for_client: bool) -> bool:
        self.seq += 1
        free = self.BYTES - self.file.use(used_bytes)
        # Another key and instance for each, so that no log makes room for itself.
        row = attrs.evolve(one(self.seq, connection=name), key=f"k{self.seq}", instance=f"{self.seq:032x}")
        part = CLIENT_PART if for_client else 1.0
        few = max(1, int(max(self.LEAST, min(self.FEW, free * FEW_PART / row_bytes(name))) * part))
        try:
            self.file.keep(row, for_client=for_client)
        except CheckpointsFull:
            has = len(seqs(self.file, connection=name))
            assert has >= few, f"{name} has {has}, and may have {few}"
            return False
        self.kept[name].append(self.seq)
        return True

    @rule(name=st.sampled_from(NAMES), for_client=st.booleans(), count=st.sampled_from([1, 5, 300]))
    def one_adds(self, name: str, for_client: bool, count: int) -> None:
        for _ in range(count):
            if not self.add(name, for_client=for_client):
                break

    @rule(name=st.sampled_from(NAMES))
    def an_administrator_deletes(self, name: str) -> None:
        assert self.file.delete(name, "0f" * 8) == len(self.kept[name])
        self.kept[name] = []

    @rule(name=st.sampled_from(NAMES), count=st.sampled_from([1, 5, 50]), has_new_key=st.booleans())
    def the_first_log_of_the_file_goes_on(self, name: str, count: int, has_new_key: bool) -> None:
        """It belongs to a connector of each hybrid connection, and begins before the others fill the file."""
        if has_new_key and self.is_short(name):
            self.keys[name] += 1
        for _ in range(count):
            self.seq += 1
            self.file.keep(
                attrs.evolve(
                    one(self.seq, connection=name, log=self.LOG, at=NOW + 60.0 * self.seq),
                    key=f"key {self.keys[name]} of {name}",
                )
            )

    def is_short(self, name: str) -> bool:
        free = self.BYTES - self.file.use(used_bytes)
        return max(0, free) * FEW_PART / row_bytes(name) < self.FEW

    @invariant()
    def the_file_is_not_too_large(self) -> None:
        assert self.file.use(used_bytes) <= self.BYTES * (1 + REPLACING_PART)

    def teardown(self) -> None:
        try:
            for name, kept in self.kept.items():
                found = seqs(self.file, connection=name, log_id="0f" * 8)
                assert found == kept, "nobody's checkpoints make room for others"
        finally:
            self.file.close()
            self._patch.undo()
            self._directory.cleanup()


TestFile = FileMachine.TestCase
TestFile.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


def test_what_is_not_signed_with_the_key_that_it_names() -> None:
    key = SigningKey.generate()
    message = checkpoint_message(1, "ab" * 32, "t")
    good = attrs.evolve(one(1), head="ab" * 32, at="t", key=str(key.public), signature=key.sign(message))
    assert good.is_signed()
    for changes in (
        {"seq": 2},
        {"head": "cd" * 32},
        {"at": "u"},
        {"key": str(SigningKey.generate().public)},
        {"key": "ed25519:k"},
        {"signature": ""},
        {"signature": "A" * 88},
    ):
        assert not attrs.evolve(good, **changes).is_signed()


@pytest.mark.parametrize(
    "query",
    [
        {"connection": "small-a"},
        {"connection": "nothing"},
        {"prefix": "small-"},
        {"prefix": "nothing"},
        {"prefix": "small-", "log_id": "0f" * 8},
        {"connection": "small-a", "log_id": "0f" * 8, "prefix": "small-"},
        {"log_id": "1" * 16},
    ],
    ids=str,
)
def test_a_query_does_not_look_at_the_checkpoints_of_others(tmp_path: Path, query: dict[str, str]) -> None:
    def steps(others: int) -> int:
        with contextlib.closing(CheckpointFile(tmp_path / str(others))) as file:
            (tmp_path / str(others)).mkdir()
            for name in ("small-a", "small-b"):
                file.keep(one(1, connection=name))
            for number in range(others):
                file.keep(one(number, connection="big", log="2" * 16))
            taken = 0

            def count() -> int:
                nonlocal taken
                taken += 1
                return 0

            def read(database: sqlite3.Connection) -> list[KeptCheckpoint]:
                database.set_progress_handler(count, 1)
                try:
                    return module._read(database, CheckpointQuery(10, **query))  # type: ignore[arg-type]
                finally:
                    database.set_progress_handler(None, 1)

            found = file.use(read)
            wanted = query.get("connection") or query.get("prefix") or "none"
            assert [row.connection for row in found] == [
                name for name in ("small-a", "small-b") if name.startswith(wanted)
            ]
            return taken

    assert steps(1000) <= steps(10) + 50


def test_the_checkpoints_of_an_earlier_version_are_kept(file: CheckpointFile) -> None:
    file.keep(one(1))
    file.close()
    with contextlib.closing(sqlite3.connect(file.file.path)) as database:
        database.execute("DROP INDEX by_connection")
        database.execute("PRAGMA user_version = 2")
    assert seqs(file, prefix="ord") == [1]
    assert file.set_aside is None
    file.keep(one(2))


def test_a_damaged_file_is_set_aside(file: CheckpointFile, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINTS_FILE).write_bytes(b"nonsense" * 1000)
    (tmp_path / CHECKPOINTS_FILE).chmod(0o600)
    file.keep(one(1))
    assert file.set_aside is not None
    assert seqs(file) == [1]


def test_the_pace_of_a_control_channel() -> None:
    pace = Pace()
    assert [pace.admits(1000.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert not pace.admits(1009.0)
    assert pace.admits(1010.0)
    assert not pace.admits(1011.0)
    assert not pace.admits(900.0)
