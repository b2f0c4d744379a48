"""Connection strings reach their machines by claims: real processes, killed at the worst moment, and recorded."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import threading
from pathlib import Path

import pytest
import trio

from hybridrelay.relay import SQLiteStore

from ..deployments import Deployment, Program, Published, starting_with
from ..waiting import patience
from .targets import echo, exchange, serve


def make_code(deployment: Deployment, published: Published, *more: str | Path) -> str:
    """Create a claim; its code."""
    done = deployment.run(
        "claims", "create", published.name, "--state", deployment.state, "--json",
        *(more or ("--role", "application", "--label", "billing", "--authority-file", published.authority)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    code: str = json.loads(done.stdout)["code"]
    return code


def take(deployment: Deployment, code: str, out: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Take a claim, with its code on standard input."""
    return subprocess.run(
        deployment.command("claims", "take", "--out", out),
        check=False, input=f"{code}\n", capture_output=True, text=True, timeout=patience(60),
        env={**os.environ, **more},
    )  # fmt: skip


async def test_both_sides_get_their_strings_by_claims(deployment: Deployment, nursery: trio.Nursery) -> None:
    target = await serve(nursery, echo)
    published = deployment.create("orders", target)
    relay = deployment.programs[0]
    code_file = deployment.directory / "code"
    connector_code = make_code(deployment, published, "--connection-string-file", published.connector)
    code_file.write_text(connector_code.upper())
    code_file.chmod(0o600)
    new = deployment.directory / "by-claim.connector"
    # The first start takes it, and the second one needs neither the claim nor the file with its code.
    for _ in range(2):
        program = await trio.to_thread.run_sync(
            lambda: deployment.start("connector", "--claim-file", code_file, "--connection-string-file", new)
        )
        assert new.read_text() == published.connector.read_text()
        program.terminate()
        code_file.unlink(missing_ok=True)
    assert stat.S_IMODE(new.stat().st_mode) == 0o600

    code = make_code(deployment, published)
    string = deployment.directory / "billing.application"
    done = await trio.to_thread.run_sync(take, deployment, code, string)
    assert (done.returncode, done.stderr) == (0, "")
    assert "of the application billing of orders" in done.stdout
    await trio.to_thread.run_sync(deployment.start_connector, new)
    forward = await trio.to_thread.run_sync(deployment.start_forward, string)
    data = os.urandom(100_000)
    assert await exchange(forward.port, data) == data

    # Somebody else with the same code gets nothing but the alarm.
    done = await trio.to_thread.run_sync(take, deployment, code, deployment.directory / "stolen")
    assert (done.returncode, "was taken before at" in done.stderr) == (1, True)
    assert not (deployment.directory / "stolen").exists()
    relay.wait_for_line("claim.taken-again", where="err")
    listed = deployment.run("claims", "list", "orders", "--state", deployment.state, "--json")
    newest, older = json.loads(listed.stdout)
    assert (newest["state"], newest["taken_again"], older["state"], older["taken_again"]) == ("taken", 1, "taken", 0)
    audit = deployment.run("audit", "calls", "--operation", "takeClaim", "--state", deployment.state, "--json")
    assert [entry["status"] for entry in json.loads(audit.stdout)] == [200, 200, 409]
    secret = code.split(".")[-2].replace("-", "")
    for text in (relay.err, relay.out, listed.stdout, audit.stdout):
        assert secret not in text.replace("-", "").lower()
    for file in deployment.state.rglob("*"):
        if file.is_file():
            assert secret not in file.read_text("latin-1").replace("-", "").lower()


def test_a_relay_that_is_killed_while_it_delivers_does_so_once(deployment: Deployment) -> None:
    """Many takers at the same time, and the relay is killed among them: never do two get the content."""
    published = deployment.create("orders", ("127.0.0.1", 9))
    for round_ in range(3):
        code = make_code(deployment, published)
        outs = [deployment.directory / f"{round_}.{number}" for number in range(4)]
        takers = [threading.Thread(target=take, args=(deployment, code, out), daemon=True) for out in outs]
        for taker in takers:
            taker.start()
        relay = deployment.programs[-1]
        relay.wait_for_line("claim.taken:.*", where="err")
        relay.process.send_signal(signal.SIGKILL)
        relay.wait()
        deployment.start_relay()
        for taker in takers:
            taker.join()
        take(deployment, code, deployment.directory / f"{round_}.late")
        got = [out for out in (*outs, deployment.directory / f"{round_}.late") if out.exists()]
        assert len(got) <= 1
        with SQLiteStore.open(deployment.state) as store:
            assert [(claim.sealed, claim.taken_at is not None) for claim in store.claims("orders")][:1] == [
                (None, True)
            ]


def test_a_first_start_waits_for_the_relay_even_at_sighup(deployment: Deployment) -> None:
    published = deployment.create("orders", ("127.0.0.1", 9))
    code = make_code(deployment, published)
    deployment.programs[0].terminate()
    out = deployment.directory / "billing.application"
    command = deployment.command("forward", "--claim-file", "-", "--connection-string-file", out, "--mode", "tcp")
    with Program(command, text_in=code) as forward:
        forward.wait_for_line("claim.waiting", where="err")
        assert not out.exists()
        forward.process.send_signal(signal.SIGHUP)
        deployment.start_relay()
        forward.wait_for_line("^ready")
        assert out.exists()
        assert code not in forward.err + forward.out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_first_start_that_waits_can_be_stopped(deployment: Deployment, number: signal.Signals) -> None:
    published = deployment.create("orders", ("127.0.0.1", 9))
    code = make_code(deployment, published)
    deployment.programs[0].terminate()
    out = deployment.directory / "x.application"
    with Program(
        deployment.command("forward", "--connection-string-file", out, "--claim-file", "-"), text_in=code
    ) as forward:
        forward.wait_for_line("claim.waiting", where="err")
        forward.process.send_signal(number)
        assert forward.wait() == 128 + number
    assert not out.exists()


#: Kills the process before or after it gives a file its name, or before it removes one.
KILLING = """
import os, pathlib, signal
link, unlink = os.link, pathlib.Path.unlink

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def linking(source, name, **more):
    os.path.basename(name) == os.environ.get("KILLED_BEFORE_LINK") and die()
    link(source, name, **more)
    os.path.basename(name) == os.environ.get("KILLED_AFTER_LINK") and die()

def unlinking(path, **more):
    path.name == os.environ.get("KILLED_BEFORE_UNLINK") and die()
    unlink(path, **more)

os.link, pathlib.Path.unlink = linking, unlinking
"""


@pytest.fixture
def issuing(deployment: Deployment) -> Published:
    """A hybrid connection with an issuer, whose connector runs."""
    published = deployment.create("orders", ("127.0.0.1", 9))
    done = deployment.run(
        "connections", "issuer", "orders", "--authority-file", published.authority, "--update", published.connector
    )
    assert done.returncode == 0, done.stderr
    deployment.start_connector(published)
    return published


@pytest.mark.parametrize(
    ("moment", "file", "left"),
    [
        ("BEFORE_UNLINK", ".x.application.attempt", {".x.application.attempt", "x.application.claim"}),
        ("BEFORE_LINK", "x.application", {"x.application.claim"}),
        ("AFTER_LINK", "x.application", {"x.application", "x.application.claim"}),
        ("BEFORE_UNLINK", "x.application.claim", {"x.application", "x.application.claim"}),
        ("BEFORE_LINK", "x.application.claim", {".x.application.attempt"}),
    ],
)
def test_a_first_start_that_was_killed_is_continued(
    deployment: Deployment, issuing: Published, moment: str, file: str, left: set[str]
) -> None:
    code = make_code(deployment, issuing)
    directory = deployment.directory / "application"
    directory.mkdir()
    arguments = (
        "forward", "--claim-file", "-", "--connection-string-file", directory / "x.application",
        "--listen", "127.0.0.1:0", "--mode", "tcp",
    )  # fmt: skip
    command = deployment.command(*arguments)
    killing = {f"KILLED_{moment}": file}
    patch = starting_with(KILLING, deployment.directory / "patch")
    with Program([*patch, *command], text_in=code, environment=killing) as first:
        assert first.wait() == -signal.SIGKILL
    temporary = {one.name for one in directory.iterdir()} - left
    assert {one.name for one in directory.iterdir()} >= left
    assert all(name.startswith(".x.application.") for name in temporary)
    assert all(one.stat().st_size for one in directory.iterdir())
    with Program(command, text_in=code) as second:
        if file == "x.application.claim" and moment == "BEFORE_LINK":
            assert second.wait() == 1
            assert "was lost on the way" in second.err
            return
        second.wait_for_line("^ready")
        assert [one.name for one in directory.iterdir()] == ["x.application"]
