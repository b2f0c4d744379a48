"""A relay keeps the checkpoints of the audit logs of connectors and clients, and hands them out."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from hybridrelay.audit import AuditLog
from hybridrelay.audit import witnesses as witnesses_module
from hybridrelay.audit import witnessing as witnessing_module
from hybridrelay.audit.chain import Checkpoint
from hybridrelay.audit.directory import AuditDirectory
from hybridrelay.audit.disk import Disk
from hybridrelay.audit.reading import verify_directory
from hybridrelay.audit.sinks.files import FileSink
from hybridrelay.audit.verification import BadLine
from hybridrelay.client import ClientConfig, open_client
from hybridrelay.connector import Connector, ConnectorConfig, required_audit
from hybridrelay.errors import StreamRefused
from hybridrelay.events import Event, EventStream
from hybridrelay.events.audit import AuditWitnessFailed, AuditWitnessRestored
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay import LiveRelay
from hybridrelay.relay.checkpoints import CheckpointQuery, KeptCheckpoint
from hybridrelay.relay.service import checkpoints as service_module
from hybridrelay.security import Role

from ..waiting import patience
from .deployment import Deployment, Published, echo, serve_target
from .live_scene import relay_and_connector

HOST = "127.0.0.1"


def audit_log_in(directory: Path) -> AuditLog:
    return AuditLog([FileSink(AuditDirectory(Disk(directory), clock=time.time), str(directory))])


async def kept(live: LiveRelay, count: int = 1) -> list[KeptCheckpoint]:
    with trio.fail_after(patience(20)):
        while len(found := await live.checkpoints(CheckpointQuery(100))) < count:
            await trio.sleep(0.05)
    return found


def witness(found: list[KeptCheckpoint]) -> list[Checkpoint]:
    return [Checkpoint(one.log_id, one.seq, one.head, one.at, one.key, one.signature) for one in found]


@asynccontextmanager
async def audited_connector(
    deployment: Deployment, published: Published, log: AuditLog, policy: Path | None = None
) -> AsyncIterator[tuple[Connector, list[Event]]]:
    published_events: list[Event] = []
    events = EventStream(published_events.append)
    async with trio.open_nursery() as nursery:
        target = await serve_target(nursery, echo)
        config = ConnectorConfig(
            [deployment.string(published, Role.CONNECTOR, target)],
            audit=log,
            policy_directories=() if policy is None else (policy,),
        )
        connector = Connector(config, events=events)

        async def run(*, task_status: trio.TaskStatus[object]) -> None:
            async with log.opened(events):
                await connector.run(task_status=task_status)

        await nursery.start(run)
        yield connector, published_events
        nursery.cancel_scope.cancel()


async def test_the_relay_shows_that_the_end_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witnessing_module, "PACE_SECONDS", 0.01)
    directory = tmp_path / "audit"
    log = audit_log_in(directory)
    async with relay_and_connector(tmp_path / "state") as (relay, deployment, _, _events):
        published = deployment.publish("payroll")
        async with audited_connector(deployment, published, log):
            (first,) = await kept(relay.live)
            assert (first.connection, first.address) == ("payroll", HOST)
            async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
                for _ in range(130):
                    async with await client.open_stream() as stream:
                        await stream.send_all(b"x")
                        assert await stream.receive_some() == b"x"
            found = await kept(relay.live, 2)
        assert (await relay.live.checkpoints(CheckpointQuery(1)))[0] == first
        assert await relay.live.checkpoints(CheckpointQuery(1, log_id="0" * 16)) == []

    verdict = verify_directory(directory, witnessed=witness(found))
    assert verdict.witnessed_up_to == found[-1].seq > 200
    assert {one.log_id for one in found} == {verdict.log_id}
    (path,) = directory.glob("audit-*")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: found[-1].seq - 5]))
    verify_directory(directory)
    with pytest.raises(BadLine, match="the end was cut off"):
        verify_directory(directory, witnessed=witness(found))


async def test_a_client_sends_its_checkpoints_too(tmp_path: Path) -> None:
    log = audit_log_in(tmp_path / "audit")
    async with relay_and_connector(tmp_path / "state") as (relay, deployment, published, _):
        config = ClientConfig(deployment.string(published, Role.APPLICATION), audit=log)
        events = EventStream()
        async with log.opened(events), open_client(config, events=events) as client:
            async with await client.open_stream() as stream:
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"
            (one,) = await kept(relay.live)
    assert one.connection == published.name
    assert verify_directory(tmp_path / "audit", witnessed=witness([one])).witnessed_up_to == one.seq


async def test_a_required_witness_that_does_not_confirm_refuses_streams_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witnesses_module, "CONFIRM_SECONDS", 0.2)
    monkeypatch.setattr(witnessing_module, "_RETRY_SECONDS", (0.05,))
    monkeypatch.setattr(witnessing_module, "PACE_SECONDS", 0.01)
    monkeypatch.setattr(required_audit, "_CHECK_SECONDS", 0.05)
    policy = tmp_path / "policy"
    policy.mkdir(mode=0o755)
    (policy / "witness.toml").write_text(f'AuditWitness = ["{HOST}"]\n')
    store = service_module.CheckpointService.keep
    is_broken = True

    async def keep(self: service_module.CheckpointService, *arguments: object, for_client: bool) -> object:
        if is_broken:
            request = arguments[0]
            return service_module.control.Failed(request.id, Reason.LIMIT, "no room")  # type: ignore[attr-defined]
        return await store(self, *arguments, for_client=for_client)  # type: ignore[arg-type]

    monkeypatch.setattr(service_module.CheckpointService, "keep", keep)
    monkeypatch.setattr("hybridrelay.relay.checkpoints.PACE_BURST", 10**9)
    log = audit_log_in(tmp_path / "audit")
    async with relay_and_connector(tmp_path / "state") as (_relay, deployment, _, _events):
        published = deployment.publish("payroll")
        async with audited_connector(deployment, published, log, policy) as (connector, events):

            async def until(done: object) -> None:
                assert callable(done)
                with trio.fail_after(patience(20)):
                    while not done():
                        await trio.sleep(0.05)

            def of(kind: type[Event]) -> list[Event]:
                return [one for one in events if isinstance(one, kind)]

            await until(partial(of, AuditWitnessFailed))
            # On a slow machine, the relay may be overdue before its first answer has arrived.
            await until(lambda: [problem.detail for problem in connector.snapshot().audit] == ["no room"])
            (problem,) = connector.snapshot().audit
            assert (problem.sink, problem.is_required) == (f"witness {HOST}", True)
            async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
                for _ in range(2):
                    with pytest.raises(StreamRefused) as caught:
                        await client.open_stream()
                    assert caught.value.reason is Reason.AUDIT_UNAVAILABLE
                (failed,) = of(AuditWitnessFailed)
                assert isinstance(failed, AuditWitnessFailed)
                assert failed.witness == f"witness {HOST}"

                is_broken = False
                await until(partial(of, AuditWitnessRestored))
                assert connector.snapshot().audit == ()
                async with await client.open_stream() as stream:
                    await stream.send_all(b"x")
                    assert await stream.receive_some() == b"x"


async def test_witnesses_that_cannot_be_are_refused_at_once(tmp_path: Path) -> None:
    policy = tmp_path / "policy"
    policy.mkdir(mode=0o755)
    (policy / "witness.toml").write_text('AuditWitness = ["elsewhere.example.com"]\n')
    log = audit_log_in(tmp_path / "audit")
    async with relay_and_connector(tmp_path / "state") as (_relay, deployment, _, _events):
        published = deployment.publish("payroll")
        async with audited_connector(deployment, published, log, policy) as (connector, _):
            (problem,) = connector.snapshot().audit
            assert "this program uses none of them" in problem.detail
            async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
                with pytest.raises(StreamRefused) as caught:
                    await client.open_stream()
                assert caught.value.reason is Reason.AUDIT_UNAVAILABLE
