"""A hybrid connection that ends by itself while the program applies a changed configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from hybridrelay.cli.serving.plan import Change, Plan, Replace, Running, Stop, Update, Wanted, make_plan
from hybridrelay.security import Secret

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
        assert not program.service.running
        program.service._served[key] = ended
        assert await program.service.apply(plan) == [*plan.steps]


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
        program.service._served[key] = ended
