"""What happens when a reload fails: it is tried again, and a bug does not end the program."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from hybridrelay.cli.connection_strings import load_again
from hybridrelay.cli.entries import Key
from hybridrelay.cli.option_parts import OptionParts, Part
from hybridrelay.cli.parser import build_parser
from hybridrelay.cli.proxies import ChangingDialer
from hybridrelay.cli.running import GracefulStop
from hybridrelay.cli.serving import configuration as configuration_module
from hybridrelay.cli.serving import reloads as reloads_module
from hybridrelay.cli.serving.configuration import Configuration
from hybridrelay.cli.serving.plan import Plan, Running, Start, Step, Update
from hybridrelay.cli.serving.reloads import Reloads
from hybridrelay.connectivity.commands import Commands
from hybridrelay.errors import ConfigurationError
from hybridrelay.security import ConnectionString, Role

from ...waiting import async_wait_until
from .test_plan import NAMES, string


def one_file(directory: Path) -> tuple[Path, argparse.Namespace]:
    """The file of a connection string, and the arguments of a connector that uses it."""
    file = directory / "one.connector"
    file.write_text(string("one").format())
    file.chmod(0o600)
    return file, build_parser().parse_args(["connector", "--connection-string-file", str(file)])


def make_reloads(
    args: argparse.Namespace,
    service: Service,
    configuration: Configuration | None = None,
    parts: OptionParts | None = None,
) -> Reloads:
    configuration = configuration or Configuration(args, Role.CONNECTOR)
    dialer = ChangingDialer(configuration.dial_options(), Commands(None))
    return Reloads("connector", configuration, service, GracefulStop(0), dialer=dialer, parts=parts)


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
    file, args = one_file(tmp_path)
    service = Service()
    reloads = make_reloads(args, service)
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


class RefusingService(Service):
    """Cannot serve what it is to serve until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.why: str | None = "cannot read the deny list"

    async def apply(self, plan: Plan) -> Sequence[Step]:
        await trio.lowlevel.checkpoint()
        self.applied.append(plan)
        if self.why is not None:
            raise ConfigurationError(self.why)
        self.has_applied.set()
        return ()


class LookedAtService(Service):
    """Applies each plan when it may."""

    def __init__(self, running: Mapping[Key, Running]) -> None:
        super().__init__()
        self.running = running
        self.may_apply = trio.Event()

    async def apply(self, plan: Plan) -> Sequence[Step]:
        self.applied.append(plan)
        self.has_applied.set()
        await self.may_apply.wait()
        return ()


class AskedService(Service):
    """Serves nothing, and somebody has asked for the reload."""

    def refresh(self, keys: Iterable[Key]) -> None:
        pass

    async def apply(self, plan: Plan) -> Sequence[Step]:
        await trio.lowlevel.checkpoint()
        return ()


async def test_options_that_cannot_be_used_are_reported_once_unless_somebody_asks_or_they_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A signal and the watch of the file may both cause a reload."""
    (tmp_path / "one.connector").write_text(string("one").format())
    (tmp_path / "one.connector").chmod(0o600)
    file = tmp_path / "connector.toml"

    def write(*lines: str) -> None:
        file.write_text("\n".join([*lines, "[[connection]]", 'file = "one.connector"\n']))

    write()
    args = build_parser().parse_args(["connector", "--config", str(file)])
    configuration = Configuration(args, Role.CONNECTOR)
    configuration.load()

    async def refuse(wanted: argparse.Namespace) -> None:
        await trio.lowlevel.checkpoint()
        raise ConfigurationError(f"no status at {wanted.status}")

    parts = OptionParts(args, [Part(frozenset({"status"}), refuse)])
    reloads = make_reloads(args, AskedService(), configuration, parts)

    async def reported(*, says_all: bool) -> tuple[int, int]:
        caplog.clear()
        await reloads.reload(says_all=says_all)
        return caplog.text.count("no status at"), caplog.text.count("only after a restart")

    write("grace = 7", 'status = "one"')
    assert await reported(says_all=True) == (1, 1)
    assert await reported(says_all=False) == (0, 0)
    assert await reported(says_all=True) == (1, 1)
    write("grace = 8", 'status = "two"')
    assert await reported(says_all=False) == (1, 1)
    assert await reported(says_all=False) == (0, 0)
    write()
    assert await reported(says_all=False) == (0, 0)
    write("grace = 8", 'status = "two"')
    assert await reported(says_all=False) == (1, 1)


async def test_what_could_not_be_read_is_tried_again_and_reported_once(
    tmp_path: Path,
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reloads_module, "RETRY_SECONDS", 0.1)
    file, args = one_file(tmp_path)
    service = RefusingService()
    reloads = make_reloads(args, service)
    nursery.start_soon(reloads.watch)

    async def tried() -> bool:
        return len(service.applied) > 3

    with trio.fail_after(60):
        file.write_text(string("one", port=2).format())
        await async_wait_until(tried, seconds=60, what="several attempts")
        assert caplog.text.count("cannot read the deny list") == 1
        service.why = None
        await service.has_applied.wait()
    nursery.cancel_scope.cancel()


async def test_a_last_look_applies_what_has_changed_after_the_change_that_is_being_applied(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    _, args = one_file(tmp_path)
    (wanted,) = Configuration(args, Role.CONNECTOR).load()
    service = LookedAtService({wanted.entry.key: Running(wanted.entry, string("one", port=5))})
    reloads = make_reloads(args, service)
    looked: list[int] = []

    async def look() -> None:
        async with reloads.last_look():
            await trio.lowlevel.checkpoint()
            looked.append(len(service.applied))

    with trio.fail_after(60):
        nursery.start_soon(partial(reloads.reload, says_all=False))
        await service.has_applied.wait()
        async with trio.open_nursery() as looking:
            for _ in range(3):
                looking.start_soon(look)
            await trio.testing.wait_all_tasks_blocked()
            assert not looked
            service.may_apply.set()
    # All of them had failed before the first of them has looked.
    assert looked == [2, 2, 2]
    assert all([type(step) for step in plan.steps] == [Update] for plan in service.applied)
    await look()
    assert looked[-1] == 3


async def test_a_last_look_starts_nothing_new(tmp_path: Path) -> None:
    _, args = one_file(tmp_path)
    service = LookedAtService({})
    service.may_apply.set()
    reloads = make_reloads(args, service)
    async with reloads.last_look():
        assert service.applied == [Plan((), ())]
    await reloads.reload(says_all=False)
    assert [type(step) for step in service.applied[-1].steps] == [Start]


async def test_a_last_look_that_fails_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, args = one_file(tmp_path)
    reloads = make_reloads(args, Service())
    async with reloads.last_look():
        assert "a bug" in caplog.text


async def test_a_connection_string_that_could_not_be_read_is_tried_again(
    tmp_path: Path,
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file has not changed, but its file system did not answer."""
    monkeypatch.setattr(reloads_module, "RETRY_SECONDS", 0.1)
    file, args = one_file(tmp_path)
    configuration = Configuration(args, Role.CONNECTOR)
    (wanted,) = configuration.load()
    assert wanted.string is not None
    service = RefusingService()
    service.why = None
    service.running = {wanted.entry.key: Running(wanted.entry, wanted.string)}
    attempts = 0

    def load_again(path: str, role: Role) -> ConnectionString:
        nonlocal attempts
        attempts += 1
        if attempts < 4:
            raise ConfigurationError("it did not answer")
        return string("one", port=2)

    monkeypatch.setattr(configuration_module, "load_again", load_again)
    reloads = make_reloads(args, service, configuration)
    nursery.start_soon(reloads.watch)
    with trio.fail_after(60):
        file.write_text(string("one", port=2).format())
        while not any(plan.steps for plan in service.applied):
            service.has_applied = trio.Event()
            await service.has_applied.wait()
    assert caplog.text.count("it did not answer") == 1
    nursery.cancel_scope.cancel()


async def test_connection_strings_are_read_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that those whose file systems do not answer do not wait for each other."""
    files = []
    for name in NAMES:
        files.append(tmp_path / f"{name}.connector")
        files[-1].write_text(string(name).format())
    args = build_parser().parse_args(["connector", "--connection-string-file", *map(str, files)])
    configuration = Configuration(args, Role.CONNECTOR)
    running = {
        one.entry.key: Running(one.entry, one.string) for one in configuration.load() if one.string is not None
    }
    all_read = threading.Barrier(len(NAMES))

    def load(path: str, role: Role) -> ConnectionString:
        all_read.wait(60)
        return load_again(path, role)

    monkeypatch.setattr(configuration_module, "load_again", load)
    reading = await configuration.read_again(running, says_all=False)
    assert reading.is_complete
    assert [one.string for one in reading.wanted] == [one.string for one in running.values()]
