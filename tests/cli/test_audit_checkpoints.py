"""``audit checkpoints``, and ``audit verify`` with a relay as the witness."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from hybridrelay.audit.chain import Checkpoint
from hybridrelay.audit.directory import AuditDirectory
from hybridrelay.audit.disk import Disk
from hybridrelay.audit.record import Record
from hybridrelay.relay.checkpoints import CheckpointQuery, KeptCheckpoint
from hybridrelay.relay.store.checkpoints import CheckpointFile

from ..management.live import FakeRelay
from .conftest import Created, Run
from .served_relay import Access, served

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")


@attrs.frozen
class Scene:
    """A relay that keeps checkpoints of the log in a directory."""

    access: Access
    log: str
    directory: Path


def kept(one: Checkpoint, number: int, connection: str = "orders") -> KeptCheckpoint:
    return KeptCheckpoint(
        connection, one.log_id, one.seq, one.head, one.at, one.key, one.signature, "a" * 32, "192.0.2.7", 5.0, number
    )


@pytest.fixture(params=["store", "socket", "https"])
def scene(request: pytest.FixtureRequest, created: Created, tmp_path: Path) -> Iterator[Scene]:
    path = tmp_path / "audit"
    directory = AuditDirectory(Disk(path), clock=time.time)
    directory.open()
    found = []
    for number in range(3):
        directory.append([Record(1.7e9, "stream.opened", {"number": number})])
        directory.checkpoint()
        assert directory.signed is not None
        found.append(directory.signed)
    directory.close()
    held = [kept(one, number) for number, one in enumerate(found, 1)]
    held.append(kept(attrs.evolve(found[0], log_id="e" * 16), 4, "payroll"))
    if request.param == "store":
        with contextlib.closing(CheckpointFile(created.state)) as file:
            for one in held:
                file.keep(one)
        yield Scene(Access("store", created.state, ("--state", created.state)), found[0].log_id, path)
        return
    relay = FakeRelay()
    relay.held_checkpoints += held
    with served(created.state, over_tcp=request.param == "https", relay=relay) as access:
        yield Scene(access, found[0].log_id, path)


def test_they_are_shown_and_deleted(run: Run, scene: Scene) -> None:
    options = scene.access.options
    shown = run("audit", "checkpoints", *options)
    header, *rows = shown.out.splitlines()
    assert (shown.code, header.split()[:2], len(rows)) == (0, ["CONNECTION", "LOG"], 4)
    assert "192.0.2.7" in rows[0]
    only = run("audit", "checkpoints", "--json", "--log", "e" * 16, *options).out.splitlines()
    assert [json.loads(line)["connection"] for line in only] == ["payroll"]
    assert len(run("audit", "checkpoints", "--json", "--connection", "orders", *options).out.splitlines()) == 3

    assert run("audit", "checkpoints", "--delete", *options).code == 2
    assert run("audit", "checkpoints", "--log", "nonsense", *options).code == 2
    deleted = run("audit", "checkpoints", "--delete", "--connection", "payroll", "--log", "e" * 16, *options)
    if scene.access.name == "store":
        assert (deleted.code, "start the relay" in deleted.err) == (2, True)
        return
    assert (deleted.code, deleted.err) == (0, "")
    assert ("deleteAuditCheckpoints", 204) in [(operation, status) for operation, _, status in scene.access.audited]
    assert run("audit", "checkpoints", "--log", "e" * 16, *options).out == "no checkpoints match\n"


def test_the_relay_is_the_witness(run: Run, scene: Scene, tmp_path: Path) -> None:
    verify = ("audit", "verify", scene.directory, "--witness", "relay", *scene.access.options)
    good = run(*verify)
    assert (good.code, "witnessed up to record 7" in good.out) == (0, True)
    assert json.loads(run(*verify, "--json").out)["witnessedUpTo"] == 7
    exported = tmp_path / "checkpoints"
    exported.write_text(run("audit", "checkpoints", "--json", *scene.access.options).out)
    assert run("audit", "verify", scene.directory, "--witness", exported).code == 0

    (path,) = scene.directory.glob("audit-*")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:6]))
    assert run("audit", "verify", scene.directory).code == 0
    for witness in (verify, ("audit", "verify", scene.directory, "--witness", exported)):
        cut = run(*witness)
        assert (cut.code, "the end was cut off" in cut.out) == (4, True)

    other = tmp_path / "other"
    directory = AuditDirectory(Disk(other), clock=time.time)
    directory.open()
    directory.close()
    replaced = run("audit", "verify", other, "--witness", "relay", *scene.access.options)
    assert (replaced.code, "keeps no checkpoint of this log" in replaced.out) == (4, True)


def test_options_that_do_not_fit_together(run: Run, scene: Scene) -> None:
    missing = run("audit", "verify", scene.directory, "--witness", "relay")
    assert (missing.code, "--state or --management" in missing.err) == (2, True)
    surplus = run("audit", "verify", scene.directory, *scene.access.options)
    assert (surplus.code, "--witness relay" in surplus.err) == (2, True)


def test_a_relay_without_the_file(run: Run, created: Created) -> None:
    assert run("audit", "checkpoints", "--state", created.state).out == "no checkpoints match\n"
    with contextlib.closing(CheckpointFile(created.state)) as file:
        assert file.read(CheckpointQuery(1)) == []
