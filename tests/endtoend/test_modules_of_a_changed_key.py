"""`docs/architecture.md` names the modules that act when a key is changed, in their order.

Relay, connector, forward and the commands are programs of their own, which record the calls of their functions
(`recorded`). Three changes are made: a key is replaced that is in use, and a connector and a forward each change to
the other key of their rule.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import attrs
import pytest
import trio

from ..deployments import Deployment, Program
from ..waiting import async_wait_until
from .recorded import Acted, Recorded
from .targets import echo, serve
from .test_modules_of_the_flows import BYTE, JOIN, LEFT_OUT, PAGE, ROUTE, named_in

KEY = "A key that is changed"
#: What may act besides the modules of the list: what its page leaves out, and what sessions and connections use.
ALSO = (LEFT_OUT, BYTE, JOIN, ROUTE)
#: An interface has no code that is called.
INTERFACES = {"relay/store/store.py"}
#: A background task may act at any moment. What is wrong is wrong each time, of so many at most.
TIMES = 5
#: How often each background task that looks for changes has to look before something is changed.
LOOKS = 8
SECONDS = 60
#: In which programs the modules of a part of the list act.
PROGRAMS = {"command": ("command",), "relay": ("relay",), "connector or forward": ("connector", "forward")}
#: Which change of a key each program makes as the page has it: see `Machine.change`.
CHANGES = {"command": "replaced", "relay": "replaced", "connector": "connector", "forward": "application"}
#: What shows that a program has looked for changes.
LOOKING = {
    "relay": "relay/service/watcher.py",
    "connector": "cli/file_stamps.py",
    "forward": "cli/file_stamps.py",
}


def steps() -> dict[int, list[str]]:
    """By its number, the modules that a step of the list names."""
    (section,) = re.findall(rf"^## {KEY}\n(.*?)^Special cases:", PAGE, re.MULTILINE | re.DOTALL)
    parts = re.split(r"^(\d+)\. ", section, flags=re.MULTILINE)[1:]
    return {
        int(number): re.findall(r"`([a-z_/]+\.py)`", text)
        for number, text in zip(parts[::2], parts[1::2], strict=True)
    }


def parts_of_the_list() -> dict[str, set[int]]:
    """Which steps are in which program, as the page says."""
    text = " ".join(PAGE.split())
    match = re.search(
        r"Steps ([^.]+?) are in the (command), steps ([^.]+?) in the (relay), and steps ([^.]+?) in a "
        r"(connector or forward)\.",
        text,
    )
    assert match is not None
    words = match.groups()
    return {part: set(_numbers(numbers)) for numbers, part in zip(words[::2], words[1::2], strict=True)}


def _numbers(text: str) -> Iterable[int]:
    """For example, 1, 2, 3 and 5 of "1 to 3 and 5"."""
    for one in text.split(" and "):
        first, _, last = one.partition(" to ")
        yield from range(int(first), int(last or first) + 1)


def test_every_step_is_in_one_program() -> None:
    parts = parts_of_the_list()
    assert parts.keys() == PROGRAMS.keys()
    assert sorted(number for numbers in parts.values() for number in numbers) == sorted(steps())


def late(listed: Sequence[tuple[int, str]], acted: Acted) -> set[str]:
    """The modules that are called only after a module of a later step has done something."""
    return {
        f"{module} after {other}"
        for index, (step, module) in enumerate(listed)
        for later, other in listed[index + 1 :]
        if later != step
        and module in acted.called
        and other in acted.did_something
        and acted.did_something[other] < acted.called[module]
    }


def test_what_is_late_is_found() -> None:
    listed = [(1, "a"), (1, "b"), (2, "c"), (3, "d")]
    acted = Acted(called={"a": 2, "b": 1, "c": 0, "d": 4}, did_something={"a": 2, "b": 3, "c": 2, "d": 4})
    assert late(listed, acted) == set()
    early = attrs.evolve(acted, did_something={"b": 1, "c": 1, "d": 1})
    assert late(listed, early) == {"a after c", "a after d"}


@attrs.define
class Machine:
    """Where the programs run. Each serves a second hybrid connection, which keeps it running when the key is replaced
    that it uses for the first one."""

    deployment: Deployment
    recorded: Recorded
    services: Mapping[str, Program]
    #: Comes before the commands, so that they record.
    wrapper: tuple[str, ...]
    #: The phases in which nothing was changed.
    quiet: set[int] = attrs.field(factory=set)

    async def run(self, *command: str | Path, says: str, by: str) -> int:
        """Run a command in a phase of its own, and wait until a service says something. Returns the phase."""
        await self.look_for_changes(1)  # what the last change has caused is over then
        service = self.services[by]
        heard = len(service.lines["err"])
        phase = self.recorded.begin()
        arguments = [*self.wrapper, *self.deployment.command(*command, "--state", self.deployment.state)]
        done = await trio.run_process(arguments, check=False, capture_stdout=True, capture_stderr=True)
        assert (done.returncode, done.stderr) == (0, b"")

        async def has_said() -> bool:
            return any(says in line for line in service.lines["err"][heard:])

        await async_wait_until(has_said, seconds=SECONDS, what=f"{says}\n{service.err}")
        return phase

    async def change(self, key: str) -> dict[str, int]:
        """Let connector and forward change to this key, and then replace it. Returns the phases of the three."""
        in_use, directory = "Only this key is in use now", self.deployment.directory
        phases = {}
        for rule, service in (("connector", "connector"), ("application", "forward")):
            file = directory / f"orders.{rule}"
            phases[rule] = await self.run(
                "keys", "use", "orders", "--rule", rule, "--key", key, "--update", file, says=in_use, by=service
            )
        files = directory / "orders.connector", directory / "orders.authority"
        phases["replaced"] = await self.run(
            "keys", "regenerate", "orders", "--rule", "connector", "--key", key, "--update", *files,
            says=in_use, by="connector",
        )  # fmt: skip
        return phases

    async def look_for_changes(self, times: int) -> None:
        """Wait while nothing is changed, until every program has looked for changes so many times."""
        for _ in range(times):
            phase = self.recorded.begin()
            self.quiet.add(phase)

            async def have_looked(phase: int = phase) -> bool:
                return all(
                    any(call.phase == phase and call.module == module for call in self.recorded.calls(program))
                    for program, module in LOOKING.items()
                )

            await async_wait_until(have_looked, seconds=SECONDS, what="the programs look for changes")


def configuration(directory: Path, role: str, more: str = "") -> Path:
    """A configuration file with both hybrid connections."""
    path = directory / f"{role}.toml"
    path.write_text("".join(f'[[connection]]\nfile = "{name}.{role}"\n{more}' for name in ("orders", "kept")))
    return path


async def start(tmp_path: Path, deployment: Deployment, target: tuple[str, int]) -> Machine:
    """Start everything, and wait until the forward has a session."""
    recorded = Recorded(tmp_path)
    wrapper = {program: recorded.wrapper(program) for programs in PROGRAMS.values() for program in programs}

    def start_programs() -> dict[str, Program]:
        deployment.start_relay(wrapper=wrapper["relay"])
        for name in ("orders", "kept"):
            deployment.create(name, target)
        files = {
            "connector": configuration(tmp_path, "connector"),
            "forward": configuration(tmp_path, "application", 'listen = "127.0.0.1:0"\n'),
        }
        return {
            program: deployment.start(program, "--config", file, "--mode", "tcp", wrapper=wrapper[program])
            for program, file in files.items()
        }

    services = await trio.to_thread.run_sync(start_programs)
    await services["forward"].logs("session.opened: .*connection=orders")
    return Machine(deployment, recorded, services, wrapper["command"])


async def test_a_key_that_is_changed(tmp_path: Path, nursery: trio.Nursery) -> None:
    """Every module of the list is called. What acts each time is in the list, and no step is late each time."""
    if sys.platform == "win32":
        pytest.skip("the relay runs on Linux")
    listed = {
        part: [(number, module) for number, modules in steps().items() if number in numbers for module in modules]
        for part, numbers in parts_of_the_list().items()
    }
    target = await serve(nursery, echo)
    with Deployment(tmp_path) as deployment:
        machine = await start(tmp_path, deployment, target)
        recorded = machine.recorded
        await machine.look_for_changes(LOOKS)
        wrong: dict[str, set[str]] = {}
        for number in range(TIMES):
            phases = await machine.change("primary" if number % 2 else "secondary")
            found = wrong_in(listed, machine, phases)
            wrong = {about: wrong.get(about, what) & what for about, what in found.items()}
            if not any(wrong.values()):
                break
        assert {about: what for about, what in wrong.items() if what} == {}
    for part, programs in PROGRAMS.items():
        called = {call.module for program in programs for call in recorded.calls(program)}
        assert {module for _, module in listed[part]} - called - INTERFACES == set()
    nursery.cancel_scope.cancel()


def wrong_in(
    listed: Mapping[str, Sequence[tuple[int, str]]], machine: Machine, phases: Mapping[str, int]
) -> dict[str, set[str]]:
    """What the page does not say as it was in one change of each kind, by program."""
    may_act = named_in(KEY, *ALSO)
    found: dict[str, set[str]] = {}
    for part, programs in PROGRAMS.items():
        begins = listed[part][0][0]
        first = {module for step, module in listed[part] if step <= begins + 1}
        for program in programs:
            calls = machine.recorded.calls(program)
            usual = {(call.module, call.function) for call in calls if call.phase in machine.quiet}
            now = (call for call in calls if call.phase == phases[CHANGES[program]])
            acted = Acted.of(now, usual, first=first)
            found[f"{program}: in no list"] = set(acted.did_something) - may_act
            found[f"{program}: late"] = late(listed[part], acted)
    return found
