"""Applications that ``hybridrelay run`` starts as an ordinary user, and what is left of them."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import attrs
import pytest

from .deployments import HYBRIDRELAY, Published, skip_unless_ci
from .waiting import patience, wait_until

NETWORKS = ("host", "intercept", "private")
#: A user that no machine has.
_USER = 54321
_MARK = "HYBRIDRELAY_TEST_RUN"


@cache
def as_ordinary_user() -> tuple[str, ...]:
    """What to put before a command so that it has no privileges.

    This is another user, or, if that user cannot read the interpreter that runs the tests, root without capabilities,
    except the one that root needs to have the same user id in a namespace (user_namespaces(7)).
    """
    if os.geteuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.fail("setpriv is not installed (.ci/run)")
    other = (setpriv, f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups", "--inh-caps=-all", "--")
    check = subprocess.run([*other, *HYBRIDRELAY, "--version"], check=False, capture_output=True, cwd="/")
    if check.returncode == 0:
        return other
    return (setpriv, "--bounding-set=-all,+setfcap", "--inh-caps=-all", "--")


@cache
def _refusals() -> dict[str, str]:
    """What this machine does not allow an ordinary user, by the value of ``--network``."""
    command = [*as_ordinary_user(), *HYBRIDRELAY, "run", "--check", "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/")
    found = json.loads(done.stdout)["networks"]
    return {one["network"]: f"{one['step']}: {one['detail']}" for one in found if not one["usable"]}


def require_network(network: str) -> str:
    """Return `network` if this machine allows it; otherwise, skip the test, except for root in CI."""
    if network in _refusals():
        skip_unless_ci(f"this machine does not allow --network {network}: {_refusals()[network]}")
    return network


@attrs.frozen
class Runner:
    """Runs applications with one hybrid connection."""

    #: Everybody may read it.
    directory: Path
    file: Path
    #: The processes that it starts, and theirs, have this in their environment.
    mark: str = attrs.field(factory=lambda: secrets.token_hex(8))

    @property
    def temporary(self) -> Path:
        """The directory for temporary files."""
        return self.directory / "tmp"

    def command(self, *arguments: str | Path) -> list[str]:
        """Return the command line of ``hybridrelay run`` with these arguments."""
        string = () if "--config" in arguments else ("--connection-string-file", self.file)
        return [*as_ordinary_user(), *HYBRIDRELAY, "run", *map(str, (*string, *arguments))]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the command."""
        return {
            **os.environ,
            _MARK: self.mark,
            "HOME": str(self.directory),
            "XDG_STATE_HOME": str(self.directory),
            "TMPDIR": str(self.temporary),
        }

    def run(self, *arguments: str | Path, text_in: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run an application to its end."""
        return subprocess.run(
            self.command(*arguments),
            check=False, stdin=subprocess.DEVNULL if text_in is None else None, input=text_in, capture_output=True,
            text=True, timeout=patience(60), env=self.environment, cwd=self.directory,
        )  # fmt: skip

    @contextmanager
    def start(self, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
        """Start an application, with pipes. It is killed at the end of the block."""
        process = subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment,
            cwd=self.directory,
        )  # fmt: skip
        with process:
            try:
                yield process
            finally:
                process.kill()

    def processes(self) -> dict[int, int]:
        """Return the processes that were started and have not ended: each with its parent."""
        found = {}
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit():
                with contextlib.suppress(OSError):
                    if f"{_MARK}={self.mark}".encode() in (directory / "environ").read_bytes().split(b"\0"):
                        stat = (directory / "stat").read_text().rpartition(")")[2].split()
                        if stat[0] != "Z":
                            found[int(directory.name)] = int(stat[1])
        return found

    def only_child_of(self, parent: int) -> int:
        """Return the only child of a process. Waits until there is one, because a process has no environment at the
        moment at which it executes another program."""
        found: list[int] = []

        def is_alone() -> bool:
            found[:] = children_of(self.processes(), parent)
            return len(found) == 1

        wait_until(is_alone, seconds=20, what=f"the only child of {parent}")
        return found[0]

    def wait_until_gone(self) -> None:
        """Wait until no process is left."""
        wait_until(lambda: not self.processes(), seconds=20, what=f"processes are left: {self.processes()}")


@contextmanager
def runner_for(published: Published) -> Iterator[Runner]:
    """Give the connection string of an application to the ordinary user, with a directory of its own."""
    directory = Path(tempfile.mkdtemp(prefix="hybridrelay-run-", dir="/tmp"))
    try:
        file = directory / "application"
        shutil.copy(published.application, file)
        (directory / "tmp").mkdir()
        if f"--reuid={_USER}" in as_ordinary_user():
            for path in (directory, file, directory / "tmp"):
                os.chown(path, _USER, _USER)
        yield Runner(directory, file)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def skip_unless_linux() -> None:
    """Skip a module on other systems."""
    if sys.platform != "linux":
        pytest.skip("'run' needs Linux", allow_module_level=True)


def children_of(processes: dict[int, int], parent: int) -> Sequence[int]:
    """Return the children of a process, in the result of `Runner.processes`."""
    return [pid for pid, its_parent in processes.items() if its_parent == parent]
