"""A relay whose registry is replaced by a backup: while it runs, or after it was stopped or killed."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hybridrelay.relay.store.state_dir import REGISTRY_FILE
from hybridrelay.streams.unix_sockets import connect_unix_socket

from ..deployments import Deployment, Program
from ..http.serving import Client

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not replace a file that is open")

REVOKE = ("keys", "revoke", "orders", "--rule", "application", "--key", "primary")


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path) as deployment:
        yield deployment


def back_up(state: Path, backup: Path) -> None:
    """What docs/operating.md shows, without the program `sqlite3`."""
    with closing(sqlite3.connect(state / REGISTRY_FILE)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)


def put_in_place(backup: Path, state: Path) -> None:
    """Copy the backup, and rename the copy to the name of the registry."""
    shutil.copy(backup, state / "copy")
    (state / "copy").rename(state / REGISTRY_FILE)


async def ready(deployment: Deployment) -> tuple[int, dict[str, Any]]:
    """Return the status of `/readyz`, and the checks that have failed by name."""
    async with await connect_unix_socket(deployment.state / "management.sock") as stream:
        answer = await Client(stream, host="localhost").request("GET", "/readyz")
    return answer.status, {one["name"]: one for one in json.loads(answer.body)["checks"] if not one["ok"]}


async def test_a_relay_whose_registry_was_replaced_changes_nothing(deployment: Deployment) -> None:
    relay = deployment.start_relay()
    deployment.create("orders", ("127.0.0.1", 1))
    before = deployment.run("keys", "list", "orders", "--json", "--state", deployment.state).stdout
    assert await ready(deployment) == (200, {})

    back_up(deployment.state, deployment.directory / "backup")
    put_in_place(deployment.directory / "backup", deployment.state)
    refused = deployment.run(*REVOKE, "--state", deployment.state)
    assert refused.returncode != 0
    assert f"the registry {deployment.state / REGISTRY_FILE} was replaced while it was open" in refused.stderr
    assert "restart the relay" in refused.stderr
    status, failed = await ready(deployment)
    assert (status, list(failed)) == (503, ["registry"])
    await relay.logs("was replaced while it was open.*restart the relay")
    shown = deployment.run("status", "--json", "--state", deployment.state)
    problems = {one["code"]: one for one in json.loads(shown.stdout)["relay"]["problems"]}
    assert "was replaced while it was open" in problems["registry"]["detail"]
    assert "restart the relay" in problems["registry"]["remedy"]
    relay.terminate()
    assert relay.err.count("was replaced while it was open") == 1, "it was reported once"

    deployment.start_relay()
    assert await ready(deployment) == (200, {})
    assert deployment.run("keys", "list", "orders", "--json", "--state", deployment.state).stdout == before
    revoked = deployment.run(*REVOKE, "--state", deployment.state)
    assert revoked.returncode == 0, revoked.stderr
    assert '"registry"' not in deployment.run("status", "--json", "--state", deployment.state).stdout


def replaced_while_it_ran(relay: Program, restore: Callable[[], None]) -> None:
    restore()
    relay.terminate()


def replaced_after_it_was_stopped(relay: Program, restore: Callable[[], None]) -> None:
    relay.terminate()
    restore()


def replaced_after_it_was_killed(relay: Program, restore: Callable[[], None]) -> None:
    relay.kill()
    restore()


@pytest.mark.parametrize("how", [replaced_while_it_ran, replaced_after_it_was_stopped, replaced_after_it_was_killed])
def test_nothing_is_missing_from_a_restored_registry(
    deployment: Deployment, how: Callable[[Program, Callable[[], None]], None]
) -> None:
    """What a new relay leaves of its own empty registry does not change the backup."""
    deployment.create("orders", ("127.0.0.1", 1))
    backup = deployment.directory / "backup"
    back_up(deployment.state, backup)
    deployment.state = deployment.directory / "new"
    how(deployment.start_relay(), lambda: put_in_place(backup, deployment.state))
    listed = deployment.run("connections", "list", "--json", "--state", deployment.state)
    assert "orders" in listed.stdout, listed.stderr
