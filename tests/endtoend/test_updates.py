"""Relays, pins and targets change in running programs, by updates that the authority has signed."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from hybridrelay.security import HostPort, load_connection_string

from ..deployments import Deployment, Program, Published
from ..waiting import async_wait_until
from .talking import all_move, applications
from .targets import echo, exchange, serve
from .test_several_relays import Pair, pair

__all__ = ["pair"]

STREAMS = 10
SECONDS = 120

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the relay runs on Linux")


async def run(deployment: Deployment, *arguments: str | Path) -> str:
    done = await trio.to_thread.run_sync(deployment.run, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def push(deployment: Deployment, published: Published, *options: str | Path) -> int:
    """Returns the sequence."""
    where = ("--authority-file", published.authority, "--state", deployment.state)
    out = await run(deployment, "updates", "push", published.name, *where, *options)
    found = re.search(r"pushed update (\d+)", out)
    assert found is not None
    return int(found[1])


async def listed(deployment: Deployment) -> list[dict[str, Any]]:
    found = json.loads(await run(deployment, "updates", "list", "orders", "--state", deployment.state, "--json"))
    assert isinstance(found, list)
    return found


async def until_all_have_it(deployment: Deployment, programs: list[Program], count: int) -> None:
    async def look() -> bool:
        found = await listed(deployment)
        has_it = sum(int(one["kept"]) for one in found)
        return has_it == sum(int(one["recipients"]) for one in found) == count

    try:
        await async_wait_until(look, seconds=SECONDS, what="all programs have the update")
    except BaseException:
        print(await listed(deployment), *(program.err[-3000:] for program in programs))
        raise


async def test_another_target_while_applications_talk(deployment: Deployment, nursery: trio.Nursery) -> None:
    served: list[trio.SocketStream] = []

    async def second(stream: trio.SocketStream) -> None:
        served.append(stream)
        await echo(stream)

    published = deployment.create("orders", await serve(nursery, echo))
    connector = await trio.to_thread.run_sync(deployment.start_connector, published)
    forward = await trio.to_thread.run_sync(deployment.start_forward, published)
    before = load_connection_string(published.connector)
    host, port = await serve(nursery, second)
    async with applications(forward.port, STREAMS) as talkers:
        await all_move(talkers)
        await push(deployment, published, "--target", f"{host}:{port}")
        await until_all_have_it(deployment, [connector], 1)
        await all_move(talkers)  # open connections stay where they are

        async def is_used() -> bool:
            return bool(served)

        await async_wait_until(is_used, seconds=SECONDS, what="new connections go to the second target")
        await all_move(talkers)
    after = load_connection_string(published.connector)
    assert after.target == HostPort(host, port)
    assert load_connection_string(published.connector.with_name("orders.connector.previous")) == before
    for text in (deployment.programs[0].err, (deployment.state / "registry.db").read_bytes().decode("latin-1")):
        assert f":{port}" not in text  # the relay does not know the target
    await connector.logs("update.received")
    assert published.connector.stat().st_mode & 0o777 == 0o600
    nursery.cancel_scope.cancel()


async def test_from_one_relay_to_another(pair: Pair, nursery: trio.Nursery) -> None:
    """First a second relay is added, then the first one is left out and stopped: no connection breaks."""
    published = pair.create("orders", await serve(nursery, echo))
    first, second = pair.deployments
    strings = [pair.only(file, 0) for file in (published.connector, published.application)]
    connector = await trio.to_thread.run_sync(first.start_connector, strings[0])
    forward = await trio.to_thread.run_sync(first.start_forward, strings[1])
    programs = [connector, forward.program]
    both = pair.options()
    async with applications(forward.port, STREAMS) as talkers:
        await push(first, published, *both)
        await until_all_have_it(first, programs, 2)
        await push(second, published)
        await until_all_have_it(second, programs, 1)  # the client has no channel there yet
        for file in strings:
            assert load_connection_string(file).hosts == (first.host, second.host)
        only_second = both[len(both) // 2 :]
        for relay in (first, second):
            await push(relay, published, *(only_second if relay is first else ()))
        await until_all_have_it(second, programs, 2)
        for file in strings:
            assert load_connection_string(file).hosts == (second.host,)
            assert len(load_connection_string(file).relay_pins) == 1
        await all_move(talkers)
        pair.relays[0].terminate()
        await all_move(talkers)
    for program in programs:
        assert program.process.poll() is None
    nursery.cancel_scope.cancel()


async def test_a_list_without_a_working_relay_cuts_nobody_off(deployment: Deployment, nursery: trio.Nursery) -> None:
    published = deployment.create("orders", await serve(nursery, echo))
    connector = await trio.to_thread.run_sync(deployment.start_connector, published)
    forward = await trio.to_thread.run_sync(deployment.start_forward, published)
    files = (published.connector, published.application)
    before = [file.read_bytes() for file in files]
    wrong_pin = f"sha256:{'A' * 43}="

    async def all_wait() -> bool:
        found = [program for one in await listed(deployment) for program in one["missing"]]
        return [one["state"] for one in found] == ["waiting", "waiting"] and all(
            "the earlier ones stay in use: 127.0.0.1: " in one["detail"] for one in found
        )

    async with applications(forward.port, STREAMS) as talkers:
        await push(deployment, published, "--relay-pin", wrong_pin)
        await async_wait_until(all_wait, seconds=SECONDS, what="both say that they wait")
        await all_move(talkers)
        assert [file.read_bytes() for file in files] == before
        for program in (connector, forward.program):
            await program.logs("update.not-used")
        pin = load_connection_string(published.connector).relay_pins[0]
        await push(deployment, published, "--relay-pin", pin, "--relay-pin", wrong_pin)
        await until_all_have_it(deployment, [connector, forward.program], 2)
        await all_move(talkers)
    assert load_connection_string(published.connector).relay_pins == (pin, wrong_pin)
    nursery.cancel_scope.cancel()


async def test_a_relay_that_delivers_an_earlier_update_after_a_backup_was_restored(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    published = deployment.create("orders", await serve(nursery, echo))
    connector = await trio.to_thread.run_sync(deployment.start_connector, published)
    backup = published.connector.read_bytes()

    def rows() -> list[tuple[object, ...]]:
        with sqlite3.connect(deployment.state / "registry.db") as database:
            return database.execute("SELECT * FROM updates").fetchall()

    await push(deployment, published, "--target", "127.0.0.1:1")
    await until_all_have_it(deployment, [connector], 1)
    (earlier,) = rows()
    sequence = await push(deployment, published, "--target", "127.0.0.1:2")
    await until_all_have_it(deployment, [connector], 1)
    connector.kill()
    deployment.programs[0].kill()
    published.connector.write_bytes(backup)
    with sqlite3.connect(deployment.state / "registry.db") as database:
        (latest,) = database.execute("SELECT * FROM updates").fetchall()
        database.execute("DELETE FROM updates")
        database.execute(f"INSERT INTO updates VALUES ({', '.join('?' * len(earlier))})", earlier)
    await trio.to_thread.run_sync(deployment.start_relay)
    connector = await trio.to_thread.run_sync(deployment.start_connector, published)
    await trio.to_thread.run_sync(
        partial(connector.wait_for_line, "update.not-used.*this machine has already used a later update", where="err")
    )
    await connector.logs("update.older-string")
    assert published.connector.read_bytes() == backup
    # An honest relay has the latest one, which is used again.
    deployment.programs[-2].kill()
    with sqlite3.connect(deployment.state / "registry.db") as database:
        database.execute("DELETE FROM updates")
        database.execute(f"INSERT INTO updates VALUES ({', '.join('?' * len(latest))})", latest)
    await trio.to_thread.run_sync(deployment.start_relay)
    await trio.to_thread.run_sync(
        partial(connector.wait_for_line, f"update.received.*sequence={sequence}", where="err")
    )
    assert load_connection_string(published.connector).target == HostPort("127.0.0.1", 2)
    text = await run(deployment, "updates", "list", "orders", "--state", deployment.state)
    assert "Programs that have not connected since then are not counted." in text
    nursery.cancel_scope.cancel()


async def test_a_program_that_cannot_write_is_shown_and_one_that_comes_later_gets_it(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    """A connection string from standard input is used with the update, as long as the program runs."""
    published = deployment.create("orders", await serve(nursery, echo))
    host, port = await serve(nursery, echo)
    await push(deployment, published, "--target", f"{host}:{port}", "--relay-pin", *pins(published))
    program = Program(
        deployment.command("connector", "--connection-string-file", "-"), text_in=published.connector.read_text()
    )
    deployment.programs.append(program)
    await trio.to_thread.run_sync(partial(program.wait_for_line, "update.received.*kept=False", where="err"))
    forward = await trio.to_thread.run_sync(deployment.start_forward, published)
    await trio.to_thread.run_sync(partial(forward.program.wait_for_line, "update.received.*kept=True", where="err"))
    found = await listed(deployment)
    assert {(one["role"], one["kept"], one["recipients"]) for one in found} == {
        ("connector", 0, 1),
        ("application", 1, 1),
    }
    assert [one["state"] for entry in found for one in entry["missing"]] == ["memory"]
    data = os.urandom(10_000)
    with trio.fail_after(SECONDS):
        assert await exchange(forward.port, data) == data
    nursery.cancel_scope.cancel()


def pins(published: Published) -> tuple[str, ...]:
    return load_connection_string(published.connector).relay_pins
