"""A state directory on a full disk: a relay starts and runs, and keys can be ended. Needs root, for a small disk."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from hybridrelay.relay.store.reserve import RESERVE_BYTES, RESERVE_FILE

from ..deployments import HYBRIDRELAY, Deployment, Program, skip_unless_ci

DISK_BYTES = 4 << 20
DISK_FILES = 32


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},nr_inodes={DISK_FILES},mode=700", "tmpfs", str(path)]
    if sys.platform != "linux" or shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        skip_unless_ci("no file system can be mounted here")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def deployment(tmp_path: Path, disk: Path) -> Iterator[Deployment]:
    """Its state is on that disk, and its other files are not."""
    with Deployment(tmp_path) as deployment:
        deployment.state = disk / "state"
        yield deployment


def fill(disk: Path) -> None:
    """Leave no space."""
    with (disk / "filler").open("ab", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
    assert os.statvfs(disk).f_bavail == 0


def use_up_files(disk: Path) -> None:
    """Use up the inodes, so that no file can be created."""
    with contextlib.suppress(OSError):
        for number in itertools.count(sum(1 for _ in disk.iterdir())):
            (disk / f"{number}").touch()
    assert os.statvfs(disk).f_favail == 0


def run(deployment: Deployment, *command: str) -> str:
    """Run a command on the state, which has to succeed."""
    done = deployment.run(*command, "--state", deployment.state)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("running", [True, False])
def test_keys_and_connections_are_ended_on_a_full_disk(deployment: Deployment, disk: Path, running: bool) -> None:
    relay = deployment.start_relay()
    deployment.create("orders", ("127.0.0.1", 1))
    deployment.create("billing", ("127.0.0.1", 1))
    if not running:
        relay.terminate()
    assert (deployment.state / RESERVE_FILE).stat().st_size == RESERVE_BYTES
    fill(disk)

    run(deployment, "keys", "revoke", "orders", "--rule", "application", "--key", "primary")
    fill(disk)
    run(deployment, "connections", "delete", "billing")
    names = run(deployment, "connections", "list")
    assert "orders" in names
    assert "billing" not in names
    fill(disk)
    run(deployment, "keys", "regenerate", "orders", "--rule", "application", "--key", "secondary")


def test_commands_that_only_read_leave_the_reserved_space(deployment: Deployment, disk: Path) -> None:
    relay = deployment.start_relay()
    deployment.create("orders", ("127.0.0.1", 1))
    relay.terminate()
    for command in (("keys", "list", "orders"), ("connections", "list"), ("connections", "show", "orders")) * 2:
        fill(disk)
        run(deployment, *command)
        assert (deployment.state / RESERVE_FILE).stat().st_size == RESERVE_BYTES
    fill(disk)
    run(deployment, "keys", "revoke", "orders", "--rule", "application", "--key", "primary")
    fill(disk)
    deployment.start_relay()


def test_changes_do_not_use_up_the_reserved_space(deployment: Deployment, disk: Path) -> None:
    relay = deployment.start_relay()
    deployment.create("orders", ("127.0.0.1", 1))
    relay.terminate()
    for _ in range(4):
        fill(disk)
        run(deployment, "keys", "regenerate", "orders", "--rule", "application", "--key", "primary")
        assert (deployment.state / RESERVE_FILE).stat().st_size == RESERVE_BYTES


@pytest.mark.parametrize("running", [True, False])
def test_keys_are_ended_where_no_file_can_be_made(deployment: Deployment, disk: Path, running: bool) -> None:
    relay = deployment.start_relay()
    deployment.create("orders", ("127.0.0.1", 1))
    if not running:
        relay.terminate()
    for key in ("primary", "secondary"):
        use_up_files(disk)
        run(deployment, "keys", "revoke", "orders", "--rule", "application", "--key", key)
    use_up_files(disk)
    if not running:
        deployment.start_relay()


def test_a_relay_starts_and_runs_on_a_full_disk(deployment: Deployment, disk: Path) -> None:
    deployment.start_relay()
    deployment.create("orders", ("127.0.0.1", 1))
    deployment.programs[0].terminate()
    fill(disk)
    relay = deployment.start_relay()
    fill(disk)
    # It says that it does without files such as its usage, and nothing else.
    lines = [line for line in relay.err.splitlines() if "state-file.not-written" not in line]
    assert not [line for line in lines if "cannot" in line]
    run(deployment, "connections", "delete", "orders")
    assert relay.terminate() == 0


def test_a_history_that_cannot_be_written_is_a_problem_and_nothing_else(deployment: Deployment, disk: Path) -> None:
    deployment.start_relay().terminate()
    (deployment.state / "history.db").unlink()
    fill(disk)
    relay = deployment.start_relay()
    relay.wait_for_line(r"state-file\.not-written: .*history\.db", where="err")
    assert "the history is not written" in deployment.run("status", "--state", deployment.state).stdout
    assert relay.terminate() == 0


def test_the_space_is_reserved_again_when_there_is_room(deployment: Deployment, disk: Path) -> None:
    deployment.start_relay()
    deployment.create("orders", ("127.0.0.1", 1))
    fill(disk)
    run(deployment, "keys", "revoke", "orders", "--rule", "application", "--key", "primary")
    (disk / "filler").unlink()
    run(deployment, "keys", "revoke", "orders", "--rule", "application", "--key", "secondary")
    assert (deployment.state / RESERVE_FILE).stat().st_size == RESERVE_BYTES


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
async def test_a_connector_goes_on_without_its_instance_file(tmp_path: Path, disk: Path) -> None:
    with Deployment(tmp_path) as deployment:
        deployment.start_relay()
        published = deployment.create("orders", ("127.0.0.1", 1))
        old = disk / "old"
        first = deployment.start_connector(published, arguments=("--instance-file", str(old)))
        assert await trio.to_thread.run_sync(first.terminate) == 0
        fill(disk)
        for file, says in ((old, ""), (disk / "new", "instance file")):
            connector = deployment.start_connector(published, arguments=("--instance-file", str(file)))
            assert await trio.to_thread.run_sync(connector.terminate) == 0
            assert says in connector.err


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
def test_a_log_on_a_full_disk(tmp_path: Path) -> None:
    full = ("sh", "-c", 'exec "$@" 2>/dev/full', "sh")
    with Deployment(tmp_path) as deployment:
        relay = deployment.start_relay(wrapper=full)
        published = deployment.create("orders", ("127.0.0.1", 1))
        connector = deployment.start_connector(published, wrapper=full)
        forward = deployment.start_forward(published, wrapper=full)
        for program in (forward.program, connector, relay):
            assert program.terminate() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
def test_output_on_a_full_disk(tmp_path: Path) -> None:
    with Deployment(tmp_path) as deployment:
        deployment.start_relay()
        published = deployment.create("orders", ("127.0.0.1", 1))
        command = ["sh", "-c", 'exec "$@" >/dev/full', "sh", *HYBRIDRELAY]
        with Program([*command, "connector", "--connection-string-file", published.connector]) as connector:
            connector.wait_for_line("the text was: ready connector", where="err")
            assert connector.terminate() == 0
