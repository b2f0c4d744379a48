"""Keys are changed exactly as docs/operating.md says, while applications talk and connect."""

from __future__ import annotations

import os
import re
import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay.relay import SQLiteStore

from ..deployments import Deployment, Program
from ..waiting import async_wait_until
from .talking import Talker, all_move, applications
from .targets import echo, serve

STREAMS = 20
SECONDS = 60
DOCS = Path(__file__).parents[2] / "docs" / "operating.md"


def documented_commands() -> list[str]:
    """The sequence of "Changing keys without a pause", line by line."""
    text = DOCS.read_text("utf-8").partition("### Changing keys without a pause\n")[2]
    block = text.partition("```sh\n")[2].partition("```")[0]
    return [line for line in block.splitlines() if line and not line.startswith("#")]


@attrs.define
class Machine:
    """Where all three programs run, as the documentation has it."""

    deployment: Deployment
    services: dict[str, Program]
    environment: dict[str, str]

    async def run(self, command: str, *, waits: bool = False) -> None:
        """Run a command. If it changes the key that a program uses, wait until it does, as documented."""
        changes = re.search(r"keys use orders .*--rule (connector|application)", command)
        service = self.services[changes[1]] if changes and waits else None
        heard = len(service.lines["err"]) if service else 0
        done = await trio.to_thread.run_sync(
            lambda: subprocess.run(
                ["sh", "-c", command.replace("/var/lib/hybridrelay", str(self.deployment.state))],
                check=False, cwd=self.deployment.directory, env=self.environment, capture_output=True, text=True,
                timeout=SECONDS,
            )
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), f"{command}\n{done.stderr}"
        if service is not None:
            says = "Only this key is in use now"
            assert says in DOCS.read_text("utf-8").partition("### Changing keys without a pause\n")[2]

            async def said() -> bool:
                return any(says in one for one in service.lines["err"][heard:])

            await async_wait_until(said, seconds=SECONDS, what=f"{says}\n{service.err}")

    def losses(self) -> int:
        """How often the forward has lost a data channel, and the connector its control channel."""
        return sum("was lost" in line for one in self.services.values() for line in one.lines["err"])

    async def relay_has_noticed(self) -> None:
        """Wait until the relay has acted on all changes of its registry. A key unknown to it makes it look."""
        text = (self.deployment.directory / "orders.application").read_text()
        unknown = self.deployment.directory / "unknown"
        unknown.write_text(re.sub("SharedAccessKey=[^;]+", "SharedAccessKey=unknown", text))
        unknown.chmod(0o600)
        done = await trio.to_thread.run_sync(
            self.deployment.run, "forward", "--connection-string-file", unknown, "--mode", "tcp"
        )
        assert "shared access key is wrong" in done.stderr


@pytest.fixture
async def machine(deployment: Deployment, nursery: trio.Nursery) -> Machine:
    """Relay, connector and forward run."""
    if sys.platform == "win32":
        pytest.skip("no SIGHUP there")
    published = deployment.create("orders", await serve(nursery, echo))
    connector = deployment.start_connector(published)
    forward = deployment.start_forward(published)
    services = {"connector": connector, "application": forward.program}
    bin_ = deployment.directory / "bin"
    bin_.mkdir()
    path = bin_ / "hybridrelay"
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m hybridrelay "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return Machine(deployment, services, {**os.environ, "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}"})


def keys_of(deployment: Deployment) -> dict[tuple[str, str], str]:
    """The four keys as the relay has them."""
    with SQLiteStore.open(deployment.state) as registry:
        rules = registry.get("orders").rules
    return {
        (rule.name, which): key.reveal()
        for rule in rules
        for which, key in (("primary", rule.primary), ("secondary", rule.secondary))
        if key is not None
    }


def port_of(machine: Machine) -> int:
    match = re.search(r"127\.0\.0\.1:(\d+)", machine.services["application"].out)
    assert match is not None
    return int(match[1])


async def play(machine: Machine, lines: list[str], talkers: list[Talker]) -> None:
    """Run the commands; the end of a key must not even cost a data channel."""
    for line in lines:
        losses = machine.losses()
        await machine.run(line, waits=True)
        if "keys regenerate" in line:
            await machine.relay_has_noticed()
            await all_move(talkers)
            assert machine.losses() == losses
        await all_move(talkers)


async def test_keys_are_changed_as_documented(machine: Machine, nursery: trio.Nursery) -> None:
    """All four of them, and nothing breaks: no connection, and no attempt to make one."""
    commands = documented_commands()
    before = keys_of(machine.deployment)
    assert sum("keys regenerate" in line for line in commands) == len(before) == 4
    async with applications(port_of(machine), STREAMS) as talkers:
        await play(machine, commands, talkers)
    after = keys_of(machine.deployment)

    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    for role in ("connector", "application"):
        text = (machine.deployment.directory / f"orders.{role}").read_text()
        assert f"SharedAccessKey={after[role, 'primary']};" in text
    authority = (machine.deployment.directory / "orders.authority").read_text()
    assert all(f'"{key}"' in authority for key in after.values())
    for program in machine.services.values():
        assert program.process.poll() is None
        assert "join-right.ended" not in program.err
    nursery.cancel_scope.cancel()


async def test_only_the_connector_changes_its_key(machine: Machine, nursery: trio.Nursery) -> None:
    """The applications' clients are not touched: their sessions follow by themselves."""
    async with applications(port_of(machine), STREAMS) as talkers:
        lines = [line for line in documented_commands() if "--rule connector" in line]
        await play(machine, lines, talkers)
    nursery.cancel_scope.cancel()


async def test_signals_without_end_break_no_stream(machine: Machine, nursery: trio.Nursery) -> None:
    """20 times to all three programs, with keys that go back and forth and with files that cannot be used."""
    deployment = machine.deployment
    programs = [deployment.programs[0], *machine.services.values()]
    good = {role: (deployment.directory / f"orders.{role}").read_bytes() for role in ("connector", "application")}
    use = "hybridrelay keys use orders --state /var/lib/hybridrelay --rule {0} --key {1} --update orders.{0}"
    async with applications(port_of(machine), STREAMS) as talkers:
        for number in range(20):
            for role, content in good.items():
                if number % 4 == 3:
                    (deployment.directory / f"orders.{role}").write_bytes(content[: len(content) // 2])
                elif number % 4 == 0:
                    (deployment.directory / f"orders.{role}").write_bytes(content)
                    await machine.run(use.format(role, "secondary" if number % 8 else "primary"))
            for program in programs:
                program.process.send_signal(signal.SIGHUP)
            await all_move(talkers)
        for role, content in good.items():
            (deployment.directory / f"orders.{role}").write_bytes(content)
            await machine.run(use.format(role, "secondary"), waits=True)
        for role in good:
            await machine.run(
                f"hybridrelay keys regenerate orders --rule {role} --key primary --state /var/lib/hybridrelay"
            )
        await all_move(talkers)
    assert [program.process.poll() for program in programs] == [None] * 3
    nursery.cancel_scope.cancel()
