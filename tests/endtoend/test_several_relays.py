"""Two relays as processes: killed, stopped or absent, while applications talk and know what they sent."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from ..deployments import Deployment, Forward, Program, Published, RunningRelay, create_at_relays
from ..waiting import async_wait_until
from .talking import Talker, all_move, all_send, all_talking
from .targets import echo, is_served, serve

HOSTS = ("127.0.0.1", "127.0.0.2")
FAILED = 1
STREAMS = 20
SERVED_SECONDS = 60
#: A session leaves a relay that was killed at once, and not when its workers have kept the data channel for a minute.
NOTHING_IS_KEPT = ("--keep-pairs", "0")


@attrs.define
class Pair:
    """Two relays that run, first choice first; the other programs are started by the first one's deployment."""

    deployments: tuple[Deployment, Deployment]
    relays: list[Program]

    @property
    def first(self) -> Deployment:
        return self.deployments[0]

    def create(self, name: str, target: tuple[str, int]) -> Published:
        """Create a hybrid connection at both relays."""
        relays = [
            RunningRelay(relay, deployment.host, deployment.state, deployment.ports)
            for deployment, relay in zip(self.deployments, self.relays, strict=True)
        ]
        return create_at_relays(name, target, relays, directory=self.first.directory)

    def options(self) -> list[str]:
        """The arguments that name both relays, for what writes connection strings."""
        relays: list[str] = []
        for deployment, relay in zip(self.deployments, self.relays, strict=True):
            pin = re.search(r"pin=(\S+)", relay.out)
            assert pin is not None
            ports = ",".join(f"{port}={number}" for port, number in deployment.ports.items())
            relays += ["--endpoint", deployment.host, "--relay-pin", pin[1], "--public-ports", ports]
        return relays

    def run(self, *arguments: str | Path) -> None:
        done = self.first.run(*arguments)
        assert done.returncode == 0, done.stderr

    def start_relay(self, index: int) -> None:
        """Start one of them again, on its ports."""
        self.relays[index] = self.deployments[index].start_relay(*NOTHING_IS_KEPT)

    def only(self, file: Path, index: int) -> Path:
        """The same connection string with one of the relays alone."""
        fields = dict(field.split("=", 1) for field in file.read_text().strip().split(";"))
        for name, separator in (("Endpoint", ","), ("Ports", "|")):
            fields[name] = fields[name].split(separator)[index]
        copy = file.with_name(f"{file.name}.{index}")
        copy.touch(mode=0o600)
        copy.write_text(";".join(f"{name}={value}" for name, value in fields.items()))
        return copy


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    if sys.platform != "linux":
        pytest.skip("the relay runs on Linux, where 127.0.0.2 needs no preparation")
    directories = [tmp_path / host for host in HOSTS]
    for directory in directories:
        directory.mkdir()
    with Deployment(directories[1], HOSTS[1]) as second, Deployment(directories[0], HOSTS[0]) as first:
        yield Pair((first, second), [one.start_relay(*NOTHING_IS_KEPT) for one in (first, second)])


async def wait_until_served(forward: Forward) -> None:
    async def served() -> bool:
        assert forward.program.process.poll() is None, forward.program.err
        return await is_served(forward.port)

    await async_wait_until(served, seconds=SERVED_SECONDS, what=f"a connection\n{forward.program.err}")


async def said(program: Program, pattern: str) -> None:
    await trio.to_thread.run_sync(lambda: program.wait_for_line(pattern, where="err"))


@asynccontextmanager
async def talking(forward: Forward) -> AsyncIterator[list[Talker]]:
    """Applications that talk during the block; at its end, all that they have sent has come back unaltered."""
    talkers = [Talker(forward.port) for _ in range(STREAMS)]
    async with all_talking(talkers):
        yield talkers


async def test_streams_outlive_the_death_of_either_relay(pair: Pair, nursery: trio.Nursery, mode: str) -> None:
    """There and back: the first is killed for good, comes back as another process, and then the second is killed."""
    published = pair.create("orders", await serve(nursery, echo))
    connector = pair.first.start_connector(published, arguments=["--mode", mode])
    forward = pair.first.start_forward(published, mode=mode)
    for host in HOSTS:
        await said(connector, f"registered at a relay: connection=orders host={host}")
    async with talking(forward) as talkers:
        await all_send(talkers)
        pair.relays[0].kill()
        await said(forward.program, f"session.resumed: .* at {HOSTS[1]}")
        await all_move(talkers)
        await trio.to_thread.run_sync(pair.start_relay, 0)
        await all_send(talkers)
        pair.relays[1].kill()
        await said(forward.program, f"session.resumed: .* at {HOSTS[0]}")
        await all_move(talkers)
        assert await is_served(forward.port)
    nursery.cancel_scope.cancel()


async def test_a_relay_that_is_stopped_is_left_before_it_goes(pair: Pair, nursery: trio.Nursery, mode: str) -> None:
    published = pair.create("orders", await serve(nursery, echo))
    connector = pair.first.start_connector(published, arguments=["--mode", mode])
    forward = pair.first.start_forward(published, mode=mode)
    await said(connector, f"registered at a relay: connection=orders host={HOSTS[1]}")
    async with talking(forward) as talkers:
        assert await trio.to_thread.run_sync(pair.relays[0].terminate) == 0
        await said(forward.program, f"session.(moved|resumed): .* at {HOSTS[1]}")
        await all_move(talkers)
        assert await is_served(forward.port)
    nursery.cancel_scope.cancel()


async def test_a_second_relay_is_added_while_applications_talk(pair: Pair, nursery: trio.Nursery) -> None:
    """This uses the commands of docs/operating.md. A forward that still uses the old string is served as before."""
    published = pair.first.create("orders", await serve(nursery, echo), endpoint=HOSTS[0])
    connector = pair.first.start_connector(published)
    old_forward = pair.first.start_forward(published)
    record = pair.first.directory / "orders.relay"
    both = [part for host in HOSTS for part in ("--endpoint", host)]
    change = ("connections", "endpoints", "orders")
    async with talking(old_forward):
        commands: list[tuple[str | Path, ...]] = [
            (*change, *both, "--state", pair.first.state, "--relay-file", record),
            ("connections", "import", record, "--state", pair.deployments[1].state),
            (*change, *pair.options(), "--update", published.authority, published.connector, published.application),
        ]
        for command in commands:
            await trio.to_thread.run_sync(partial(pair.run, *command))
    await trio.to_thread.run_sync(connector.terminate)
    connector = pair.first.start_connector(published)
    for host in HOSTS:
        await said(connector, f"registered at a relay: connection=orders host={host}")
    await wait_until_served(old_forward)
    forward = pair.first.start_forward(published)
    async with talking(forward) as talkers:
        await all_send(talkers)
        pair.relays[0].kill()
        await said(forward.program, f"session.resumed: .* at {HOSTS[1]}")
        await all_move(talkers)
    nursery.cancel_scope.cancel()


async def test_the_first_relay_is_down_at_the_start(pair: Pair, nursery: trio.Nursery, mode: str) -> None:
    published = pair.create("orders", await serve(nursery, echo))
    pair.relays[0].kill()
    connector = pair.first.start_connector(published, arguments=["--mode", mode])
    forward = pair.first.start_forward(published, mode=mode)
    assert await is_served(forward.port)
    await said(forward.program, f"at {HOSTS[1]}")
    await said(connector, f"not registered .*at one of its relays.* host={HOSTS[0]}|{HOSTS[0]} cannot be reached")
    await trio.to_thread.run_sync(pair.start_relay, 0)
    await said(connector, f"registered at a relay: connection=orders host={HOSTS[0]}")
    nursery.cancel_scope.cancel()


async def test_a_listener_at_the_second_relay_alone(pair: Pair, nursery: trio.Nursery) -> None:
    published = pair.create("orders", await serve(nursery, echo))
    pair.first.start_connector(pair.only(published.connector, 1))
    forward = pair.first.start_forward(published)
    assert await is_served(forward.port)
    nursery.cancel_scope.cancel()


async def test_nothing_is_there_and_then_comes(pair: Pair, nursery: trio.Nursery) -> None:
    """A forward says which relays it has tried, and serves as soon as one of them is back."""
    published = pair.create("orders", await serve(nursery, echo))
    for relay in pair.relays:
        relay.kill()
    forward = pair.first.start_forward(published)
    await said(forward.program, f"no relay works: {HOSTS[0]}: .*refused.*; {HOSTS[1]}: .*refused")
    await trio.to_thread.run_sync(pair.start_relay, 1)
    pair.first.start_connector(published)
    await wait_until_served(forward)
    nursery.cancel_scope.cancel()


def test_a_key_that_no_relay_takes(pair: Pair) -> None:
    published = pair.create("orders", ("127.0.0.1", 9))
    for file, command in ((published.application, "forward"), (published.connector, "connector")):
        file.write_text(re.sub("SharedAccessKey=[^;]+", "SharedAccessKey=d3Jvbmc=", file.read_text()))
        done = pair.first.run(command, "--connection-string-file", file)

        assert (done.returncode, done.stdout) == (FAILED, "")
        assert re.search(rf"error: no relay works: {HOSTS[0]}: .*key is wrong.*; {HOSTS[1]}: .*wrong", done.stderr)


def test_a_probe_tells_of_every_relay(pair: Pair) -> None:
    published = pair.create("orders", ("127.0.0.1", 9))
    probe = ("probe", "--connection-string-file", published.application)
    both = pair.first.run(*probe)

    assert both.returncode == 0, both.stderr
    assert [host for host in HOSTS if f"Result: {host}: use tcp" in both.stdout] == list(HOSTS)
    pair.relays[0].kill()
    one = pair.first.run(*probe, "--json")

    assert one.returncode == 0, one.stderr
    assert [(report["host"], report["chosen"]) for report in json.loads(one.stdout)] == [
        (HOSTS[0], None),
        (HOSTS[1], "tcp"),
    ]
    pair.relays[1].kill()
    none = pair.first.run(*probe)

    assert none.returncode == FAILED
    assert all(f"Result: the relay {host} cannot be reached" in none.stdout for host in HOSTS)
