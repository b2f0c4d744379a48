"""Identities that an issuer has signed are renewed while a forward runs, and open connections notice nothing."""

from __future__ import annotations

import os
import re
import stat
import sys
import time
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay.security import (
    Identity,
    load_connection_string,
    make_request,
    new_private_key,
    parse_request_untrusted,
)

from ..applications import runner_for
from ..deployments import Deployment, Program, Published
from ..waiting import async_wait_until
from .targets import echo, exchange, serve


def short_lived(published: Published, out: Path, *, seconds: float) -> Identity:
    """Write an application's connection string whose identity is due at once."""
    issuer = load_connection_string(published.connector).issuer
    assert issuer is not None
    key = new_private_key()
    request = parse_request_untrusted(make_request(key))
    # Most of its life is over.
    issued = issuer.sign("orders", "billing", request, now=time.time() - 9 * seconds, seconds=10 * seconds)
    identity = Identity(issued.certificate, key, issued.issuer)
    string = attrs.evolve(load_connection_string(published.application), identity=identity)
    out.write_text(string.format() + "\n")
    out.chmod(0o640)
    return identity


def prepare(deployment: Deployment, target: tuple[str, int]) -> Published:
    published = deployment.create("orders", target)
    done = deployment.run(
        "connections", "issuer", "orders", "--authority-file", published.authority, "--update", published.connector
    )
    assert done.returncode == 0, done.stderr
    deployment.start_connector(published, arguments=("--used-claims", str(deployment.directory / "used.json")))
    return published


async def test_an_identity_is_renewed_under_open_connections(deployment: Deployment, nursery: trio.Nursery) -> None:
    target = await serve(nursery, echo)
    published = await trio.to_thread.run_sync(prepare, deployment, target)
    out = deployment.directory / "billing.application"
    before = await trio.to_thread.run_sync(partial(short_lived, published, out, seconds=600))
    forward = await trio.to_thread.run_sync(deployment.start_forward, out)
    async with await trio.open_tcp_stream("127.0.0.1", forward.port) as stream:
        await stream.send_all(b"before")
        assert await stream.receive_some() == b"before"
        line = (await forward.program.logs(r"identity\.renewed.*")).group(0)
        assert "kept=true" in line.lower()
        after = load_connection_string(out)
        identity, _ = after.require_identity()
        assert (identity.label, identity.serial != before.serial) == ("billing", True)
        assert identity.private_key != before.private_key
        assert identity.details.not_after > time.time() + 80 * 86_400
        assert stat.S_IMODE(out.stat().st_mode) == 0o640
        # The connection continues, and new ones use the new identity.
        await deployment.programs[1].logs(rf"session\.opened.*{identity.serial}")
        data = os.urandom(50_000)
        assert await exchange(forward.port, data) == data
        await stream.send_all(b"after")
        assert await stream.receive_some() == b"after"
    assert before.serial in deployment.programs[1].wait_for_line(r"identity\.issued.*", where="err").group(0)
    # The next start uses it.
    await trio.to_thread.run_sync(forward.program.terminate)
    again = await trio.to_thread.run_sync(deployment.start_forward, out)
    assert await exchange(again.port, b"x" * 1000) == b"x" * 1000


async def test_without_a_file_the_renewed_identity_is_used_from_memory(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    target = await serve(nursery, echo)
    published = await trio.to_thread.run_sync(prepare, deployment, target)
    out = deployment.directory / "billing.application"
    before = await trio.to_thread.run_sync(partial(short_lived, published, out, seconds=600))
    command = deployment.command(
        "forward", "--connection-string-file", "-", "--listen", "127.0.0.1:0", "--mode", "tcp"
    )
    forward = await trio.to_thread.run_sync(partial(Program, command, text_in=out.read_text()))
    deployment.programs.append(forward)
    ready = await trio.to_thread.run_sync(forward.wait_for_line, "^ready.*")
    line = (await forward.logs(r"identity\.renewed.*")).group(0)
    assert "kept=False" in line
    assert "was not read from a file" in line
    issued = (await deployment.programs[1].logs(r"identity\.issued.* serial=([0-9A-F]+)"))[1]
    await deployment.programs[1].logs(rf"session\.opened.*{issued}")
    match = re.search(r"127\.0\.0\.1:(\d+)", ready.group(0))
    assert match is not None
    data = os.urandom(10_000)
    assert await exchange(int(match[1]), data) == data
    assert before.serial != issued


#: Sends a line over one connection, a line over another one for each line of standard input, and another line over
#: the first one.
TALK = """
exec 3<>/dev/tcp/echo.corp.example/7
echo before >&3; read -r line <&3; echo "$line"
while read -r _; do
    exec 4<>/dev/tcp/echo.corp.example/7
    echo new >&4; read -r line <&4; echo "$line"
    exec 4>&-
done
echo after >&3; read -r line <&3; echo "$line"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="'run' needs Linux")
async def test_new_connections_of_an_application_that_runs_use_the_renewed_identity(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    target = await serve(nursery, echo)
    published = await trio.to_thread.run_sync(prepare, deployment, target)
    out = deployment.directory / "billing.application"
    before = await trio.to_thread.run_sync(partial(short_lived, published, out, seconds=600))
    connector = deployment.programs[1]
    arguments = ("--as", "echo.corp.example:7", "--mode", "tcp", "--", "bash", "-c", TALK)
    with runner_for(attrs.evolve(published, application=out)) as runner, runner.start(*arguments) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None
        assert await trio.to_thread.run_sync(stdout.readline) == "before\n"
        issued = (await connector.logs(r"identity\.issued.* serial=([0-9A-F]+)"))[1]
        assert issued != before.serial

        async def is_used() -> bool:
            """Open another connection, and return whether one has used the renewed identity."""
            stdin.write("another\n")
            stdin.flush()
            assert await trio.to_thread.run_sync(stdout.readline) == "new\n"
            return re.search(rf"event='open'.* serial='{issued}'", connector.err) is not None

        await async_wait_until(is_used, seconds=30, what="a connection with the renewed identity")
        output, log = await trio.to_thread.run_sync(process.communicate)
        assert output == "after\n"
        assert process.returncode == 0
        assert "cannot use" not in log
        renewed, _ = load_connection_string(runner.file).require_identity()
        assert renewed.serial == issued
