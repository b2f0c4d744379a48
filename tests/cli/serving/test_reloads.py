"""What happens when changing over fails in a way that nobody has foreseen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest
import trio

from hybridrelay.cli.entries import Key
from hybridrelay.cli.parser import build_parser
from hybridrelay.cli.running import GracefulStop
from hybridrelay.cli.serving.configuration import Configuration
from hybridrelay.cli.serving.plan import Plan, Running, Step
from hybridrelay.cli.serving.reloads import Reloads
from hybridrelay.security import Role

from ...waiting import async_wait_until
from .test_plan import string


class Service:
    """Serves nothing, and fails the first time."""

    def __init__(self) -> None:
        self.applied: list[Plan] = []
        self.fields: Sequence[tuple[str, str]] = ()
        self.running: Mapping[Key, Running] = {}
        self.has_applied = trio.Event()

    def refresh(self, keys: Iterable[Key]) -> None:
        raise AssertionError("nobody has asked")

    async def apply(self, plan: Plan) -> Sequence[Step]:
        await trio.lowlevel.checkpoint()
        self.applied.append(plan)
        if len(self.applied) == 1:
            raise RuntimeError("a bug")
        self.has_applied.set()
        return ()


async def test_a_bug_does_not_end_the_program(
    tmp_path: Path, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "one.connector"
    file.write_text(string("one").format())
    file.chmod(0o600)
    args = build_parser().parse_args(["connector", "--connection-string-file", str(file)])
    service = Service()
    reloads = Reloads("connector", Configuration(args, Role.CONNECTOR), service, GracefulStop(0))
    nursery.start_soon(reloads.watch)

    async def heard() -> bool:
        return "a bug" in caplog.text

    with trio.fail_after(60):
        file.write_text(string("one", port=2).format())
        await async_wait_until(heard, seconds=60, what="the event")
        file.write_text(string("one", port=34).format())
        await service.has_applied.wait()
    assert len(service.applied) == 2
    nursery.cancel_scope.cancel()
