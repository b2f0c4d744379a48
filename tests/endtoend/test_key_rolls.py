"""Keys are rolled while applications talk and connect: nothing breaks, and nobody touches the programs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from hybridrelay.relay import SQLiteStore
from hybridrelay.security import KeySlot, Rule, load_connection_string

from ..deployments import Deployment, Program, Published, starting_with
from ..waiting import async_wait_until
from .talking import all_move, applications
from .targets import echo, exchange, serve
from .test_several_relays import Pair, pair

__all__ = ["pair"]

STREAMS = 50
SECONDS = 150
#: Instead of waiting for the end of a grace period, tests set the clock of the relay forwards. A step of more than a
#: minute would not count at once.
GRACE_SECONDS = 55
AHEAD = """
import os, time

ahead, time_of_day = {file!r}, time.time
time.time = lambda: time_of_day() + {seconds} * os.path.exists(ahead)
"""
PRIMARY, SECONDARY = KeySlot


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """As soon as this file exists, the clock of a relay that `start_again` has started is ahead by a grace period."""
    return tmp_path / "ahead"


async def start_again(deployment: Deployment, clock: Path) -> Program:
    """Kill the relay, and start it with this clock."""
    deployment.programs[0].kill()
    code = AHEAD.format(file=str(clock), seconds=GRACE_SECONDS)
    wrapper = starting_with(code, clock.with_name("ahead-patch"))
    return await trio.to_thread.run_sync(partial(deployment.start_relay, wrapper=wrapper))


async def run(deployment: Deployment, *arguments: str | Path) -> str:
    done = await trio.to_thread.run_sync(deployment.run, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rule_of(deployment: Deployment, rule: str) -> Rule:
    with SQLiteStore.open(deployment.state) as store:
        return store.rule("orders", rule)


async def until(what: str, holds: Callable[[], bool], programs: list[Program]) -> None:
    async def look() -> bool:
        return await trio.to_thread.run_sync(holds)

    try:
        await async_wait_until(look, seconds=SECONDS, what=what)
    except BaseException:
        for program in programs:
            print(program.name, program.err[-4000:])
        raise


async def roll(deployments: tuple[Deployment, ...], rule: str, new_key: Path, *more: str | Path) -> None:
    """Roll a key at each relay, to the same new one."""
    await run(
        deployments[0], "keys", "roll", "orders", "--rule", rule, "--state", deployments[0].state,
        "--out", new_key, *more,
    )  # fmt: skip
    for other in deployments[1:]:
        arguments = ("keys", "roll", "orders", "--rule", rule, "--state", other.state, "--new-key-file", new_key)
        await run(other, *arguments)


async def test_every_key_is_rolled_three_times_over_two_relays(pair: Pair, nursery: trio.Nursery) -> None:
    published = pair.create("orders", await serve(nursery, echo))
    connector = await trio.to_thread.run_sync(pair.first.start_connector, published)
    forward = await trio.to_thread.run_sync(pair.first.start_forward, published)
    programs = [connector, forward.program, *pair.relays]
    files = {"application": published.application, "connector": published.connector}
    seen: set[str] = set()
    async with applications(forward.port, STREAMS) as talkers:
        for turn in range(3):
            slot = (SECONDARY, PRIMARY)[turn % 2]
            new_keys = {}
            for name in files:  # at the same time
                new_key = pair.first.directory / f"{name}.{turn}"
                await roll(pair.deployments, name, new_key, "--update", published.authority)
                new_keys[name] = new_key.read_text().strip()

            def are_over(slot: KeySlot = slot) -> bool:
                rules = [rule_of(one, name) for one in pair.deployments for name in files]
                return all(rule.key(slot.other) is None for rule in rules)

            await until("the old keys are revoked at both relays", are_over, programs)
            for name, key in new_keys.items():
                for one in pair.deployments:
                    found = rule_of(one, name).key(slot)
                    assert found is not None
                    assert found.reveal() == key
                string = load_connection_string(files[name])
                assert string.key.reveal() == key
                assert f'"{key}"' in published.authority.read_text()
            seen.update(new_keys.values())
            await all_move(talkers)
    assert len(seen) == 6
    for program in programs:
        assert program.process.poll() is None
        for key in seen:
            assert key not in program.err + program.out
        assert "token.invalid" not in program.err
    for file in files.values():
        assert file.stat().st_mode & 0o777 == 0o600
    nursery.cancel_scope.cancel()


async def test_a_program_that_cannot_write_its_file_is_shown(
    deployment: Deployment, nursery: trio.Nursery, clock: Path
) -> None:
    relay = await start_again(deployment, clock)
    published = deployment.create("orders", await serve(nursery, echo))
    await trio.to_thread.run_sync(deployment.start_connector, published)
    # From standard input, so that there is no file.
    program = Program(
        deployment.command("forward", "--connection-string-file", "-", "--listen", "127.0.0.1:0", "--mode", "tcp"),
        text_in=published.application.read_text(),
    )
    deployment.programs.append(program)
    await trio.to_thread.run_sync(program.wait_for_line, "^ready")
    match = re.search(r"127\.0\.0\.1:(\d+)", program.out)
    assert match is not None
    async with applications(int(match[1]), 3) as talkers:
        await roll((deployment,), "application", deployment.directory / "key", "--grace", f"{GRACE_SECONDS}s")
        await trio.to_thread.run_sync(partial(program.wait_for_line, "key.received.*kept=False", where="err"))
        await all_move(talkers)

        def is_shown() -> bool:
            done = deployment.run("keys", "list", "orders", "--state", deployment.state, "--json")
            rolls = [entry["roll"] for entry in json.loads(done.stdout) if "roll" in entry]
            states = [one["state"] for roll in rolls for one in roll["missing"]]
            return states == ["memory"]

        await until("the program is shown", is_shown, deployment.programs)
        shown = await run(deployment, "keys", "list", "orders", "--state", deployment.state)
        assert "0 of 1 programs have the new key" in shown
        assert re.search(r"memory +client +127\.0\.0\.1 ", shown)
        # The grace period ends, and the program continues with the key that it has in memory.
        clock.touch()
        await until(
            "the old key is revoked",
            lambda: rule_of(deployment, "application").primary is None,
            deployment.programs,
        )
        await all_move(talkers)
        for line in ("key.roll-ended.*has_waited=True missing=1", "key.not-kept: ", "key.roll-incomplete: "):
            await trio.to_thread.run_sync(partial(relay.wait_for_line, line, where="err"))
        # It is still shown: it would fail after a restart.
        shown = await run(deployment, "keys", "list", "orders", "--state", deployment.state)
        assert "1 of 1 programs have not stored the new key. They fail after a restart," in shown
        assert re.search(r"memory +client +127\.0\.0\.1 ", shown)
        status = await trio.to_thread.run_sync(deployment.run, "status", "--state", deployment.state, "--json")
        assert "key-not-kept" in [one["code"] for one in json.loads(status.stdout)["relay"]["problems"]]
    nursery.cancel_scope.cancel()


async def test_a_program_of_a_regenerated_key_gets_no_new_one(deployment: Deployment, nursery: trio.Nursery) -> None:
    """`regenerate` is the answer to theft: the program of the old key may be the thief."""
    published = deployment.create("orders", await serve(nursery, echo))
    connector = await trio.to_thread.run_sync(deployment.start_connector, published)
    before = published.connector.read_text()
    await run(
        deployment, "keys", "regenerate", "orders", "--rule", "connector", "--key", "primary",
        "--state", deployment.state,
    )  # fmt: skip
    await trio.to_thread.run_sync(connector.wait)
    assert published.connector.read_text() == before
    assert "key.received" not in connector.err
    nursery.cancel_scope.cancel()


async def test_a_roll_survives_restarts_of_everything(
    deployment: Deployment, nursery: trio.Nursery, clock: Path
) -> None:
    """The relay is killed in the middle of it, and the program starts again with the key from its file."""
    published = deployment.create("orders", await serve(nursery, echo))
    connector = await trio.to_thread.run_sync(deployment.start_connector, published)
    grace = ("--wait-for-grace", "--grace", f"{GRACE_SECONDS}s")
    await roll((deployment,), "connector", deployment.directory / "key", *grace)
    await start_again(deployment, clock)
    await trio.to_thread.run_sync(partial(connector.wait_for_line, "key.received.*kept=True", where="err"))
    connector.kill()
    again = await trio.to_thread.run_sync(deployment.start_connector, published)
    key = (deployment.directory / "key").read_text().strip()
    assert load_connection_string(published.connector).key.reveal() == key
    clock.touch()
    await until(
        "the old key is revoked", lambda: rule_of(deployment, "connector").primary is None, deployment.programs
    )
    forward = await trio.to_thread.run_sync(deployment.start_forward, published)
    data = os.urandom(10_000)
    assert await exchange(forward.port, data) == data
    assert again.process.poll() is None
    nursery.cancel_scope.cancel()


async def test_clients_get_the_new_key_although_the_relay_was_restarted(
    deployment: Deployment, nursery: trio.Nursery, returning_soon: tuple[str, ...]
) -> None:
    """Their sessions go on in the relay's workers, and no application connects, so that nothing needs the relay."""
    published = deployment.create("orders", await serve(nursery, echo))
    await trio.to_thread.run_sync(deployment.start_connector, published)
    start = partial(deployment.start_forward, published, wrapper=returning_soon)
    forward = await trio.to_thread.run_sync(start)
    deployment.programs[0].kill()
    relay = await trio.to_thread.run_sync(deployment.start_relay)
    await trio.to_thread.run_sync(partial(relay.wait_for_line, "relay.worker-taken-over.*pairs=1", where="err"))
    await roll((deployment,), "application", deployment.directory / "key")
    key = (deployment.directory / "key").read_text().strip()
    await until(
        "the old key is revoked", lambda: rule_of(deployment, "application").primary is None, deployment.programs
    )
    assert load_connection_string(published.application).key.reveal() == key
    data = os.urandom(10_000)
    assert await exchange(forward.port, data) == data
    assert "session.lost" not in forward.program.err
    nursery.cancel_scope.cancel()


async def test_a_key_that_programs_use_is_not_replaced(deployment: Deployment, nursery: trio.Nursery) -> None:
    published: Published = deployment.create("orders", await serve(nursery, echo))
    await trio.to_thread.run_sync(deployment.start_connector, published)
    before = rule_of(deployment, "connector")
    done = await trio.to_thread.run_sync(
        partial(
            deployment.run, "keys", "roll", "orders", "--rule", "connector", "--key", "secondary",
            "--state", deployment.state,
        )
    )  # fmt: skip
    assert done.returncode == 2
    assert "the primary key, which would be replaced, is in use" in done.stderr
    assert rule_of(deployment, "connector") == before
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("grace", ["9s", "31d", "5", "x"])
def test_a_grace_that_cannot_be(deployment: Deployment, grace: str) -> None:
    done = deployment.run(
        "keys", "roll", "orders", "--rule", "connector", "--grace", grace, "--state", deployment.state
    )
    assert (done.returncode, "at least 10s, at most 30d" in done.stderr) == (2, True)
