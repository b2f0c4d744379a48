"""A hybrid connection that ends by itself while the program applies a changed configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from hybridrelay.cli.serving.plan import Change, Plan, Renew, Replace, Running, Stop, Update, Wanted, make_plan
from hybridrelay.cli.serving.served import LocalPort, Served
from hybridrelay.security import ConnectionString, Secret

from ...waiting import async_wait_until
from .test_renewed_identities import RENEWED, forward

CHANGES: dict[type, Callable[[Running], Wanted | None]] = {
    Replace: lambda one: Wanted(one.entry, attrs.evolve(one.string, identity=RENEWED)),
    Update: lambda one: Wanted(one.entry, attrs.evolve(one.string, key=Secret("k2"))),
    Change: lambda one: Wanted(attrs.evolve(one.entry, listen=(("127.0.0.1", 0),) * 2), one.string),
    Stop: lambda _: None,
}


@pytest.mark.parametrize("kind", CHANGES)
async def test_a_step_for_one_that_has_ended_is_reported(
    kind: type, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends neither the change nor the program."""
    async with forward(tmp_path) as program:
        before = dict(program.service.running)
        ((key, running),) = before.items()
        wanted = CHANGES[kind](running)
        plan = Plan((Stop(key),), ()) if wanted is None else make_plan(before, [wanted])
        assert [type(step) for step in plan.steps] == [kind]
        ended = program.service._served.pop(key)  # as at the end of `ForwardService._run`
        done = await program.service.apply(plan)
        assert done == ([*plan.steps] if kind is Stop else [])
        assert ("is no longer served" in caplog.text) is (kind is not Stop)
        assert program.service.ended_meanwhile is (kind is not Stop)
        assert not program.service.running
        program.service._served[key] = ended
        assert await program.service.apply(plan) == [*plan.steps]
        assert not program.service.ended_meanwhile


@pytest.mark.parametrize("kind", [Replace, Renew])
async def test_one_that_ends_while_its_successor_starts_is_not_replaced(
    kind: type, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its ports are closed, so that the successor would have none. The next reload starts it with its ports."""
    async with forward(tmp_path) as program:
        service = program.service
        ((key, running),) = service.running.items()
        start = service._start

        async def start_late(served: Served, string: ConnectionString) -> None:
            await start(served, string)
            service._served.pop(key)

        ended = service._served[key]
        service._start = start_late  # type: ignore[method-assign]
        replace = Replace(running.entry, attrs.evolve(running.string, identity=RENEWED))
        assert await service.apply(Plan((replace if kind is Replace else Renew(key, RENEWED),), ())) == []
        assert "is no longer served" in caplog.text
        assert service.ended_meanwhile
        assert not service.running

        async def is_over() -> bool:
            return not service._ending

        await async_wait_until(is_over, seconds=30, what="the end of the successor")
        service._served[key] = ended


async def test_a_port_of_one_that_has_ended_is_missed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The entry that was to have it is not started, and the program goes on."""
    async with forward(tmp_path) as program:
        before = dict(program.service.running)
        ((key, running),) = before.items()
        address = program.serving().listening[0]
        host, _, port = address.rpartition(":")
        fixed = attrs.evolve(running.entry, listen=((host, int(port)),))
        ended = program.service._served[key]
        ended.entry = fixed
        ended.ports = {(fixed.listen[0], 0): next(iter(ended.ports.values()))}
        other = attrs.evolve(fixed, file="another", key=("another", 0))
        plan = make_plan({key: Running(fixed, running.string)}, [Wanted(other, running.string)])
        opened = program.service._open_missing

        async def open_missing(*arguments: object) -> object:
            spare = await opened(*arguments)  # type: ignore[arg-type]
            program.service._served.pop(key)
            return spare

        program.service._open_missing = open_missing  # type: ignore[method-assign, assignment]
        done = await program.service.apply(plan)
        assert [type(step) for step in done] == [Stop]
        assert "what listened there has just ended" in caplog.text
        assert program.service.ended_meanwhile
        program.service._served[key] = ended


async def test_one_that_ends_while_its_successor_takes_its_ports_closes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with forward(tmp_path) as program:
        service = program.service
        ((key, running),) = service.running.items()
        earlier = service._served[key]
        added = attrs.evolve(running.entry, listen=(("127.0.0.1", 0),) * 2)
        assert len(await service.apply(Plan((Change(added),), ()))) == 1
        release = LocalPort.release

        async def end_and_release(port: LocalPort, grace: float) -> None:
            earlier.close_ports()
            await release(port, grace)

        monkeypatch.setattr(LocalPort, "release", end_and_release)
        replace = Replace(added, attrs.evolve(running.string, identity=RENEWED))
        assert await service.apply(Plan((replace,), ())) == [replace]
        ports = list(service._served[key].ports.values())
        assert len(ports) == len(program.serving().listening) == 2
        assert all(listener.socket.fileno() != -1 for port in ports for listener in port.opened.listeners)
