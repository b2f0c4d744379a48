"""The processes that the suite starts. None outlives the suite after Ctrl-C or, on Linux, after SIGKILL."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

START_SECONDS = 30.0
STOP_SECONDS = 5.0
#: The directory from which the suite's package is imported, and the package's name, which is `benchmarks` in a
#: checkout.
ROOT = Path(__file__).parents[len(__package__.split("."))]
PACKAGE = __package__
#: PATH with further directories, because some system programs are in directories that only root has on PATH.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


class ProgramError(Exception):
    """A program failed. The message names it, and ends with the last lines of its output."""


def find(name: str) -> str | None:
    """Return the path of a program, or None."""
    return shutil.which(name, path=_PATH)


def module(name: str, *arguments: str) -> list[str]:
    """Return the command that runs one of the suite's own modules, in the environment that `environment` returns."""
    return [sys.executable, "-m", f"{PACKAGE}.{name}", *arguments]


def environment() -> dict[str, str]:
    """Return the environment in which the suite's own processes import the same packages and do not buffer output.

    Without PYTHONSAFEPATH, ``python -m`` would import a package of the same name from the current directory first,
    such as the sources of another version. The variables that name a proxy are removed, because some tunnels connect
    even to this machine through the proxy that they name.
    """
    path = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**kept, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}


def _die_with_parent() -> None:
    """Make the kernel end this child process when its parent ends. The standard library has no `prctl`."""
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class Program:
    """A process and the file with its output. Close it, or use it with `with`.

    The process leads its own process group, so that Ctrl-C reaches only the suite, which then stops the process.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        directory: Path,
        *,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self.name = name
        self.log = directory / f"{name.replace(' ', '-')}-{time.monotonic_ns()}.log"
        # The suite has only one thread, so running code between fork and exec is safe.
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=stdin,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment() if env is None else dict(env),
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 (see above)
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def output(self) -> str:
        """Everything that the process has written so far."""
        return self.log.read_text("utf-8", "replace")

    def wait_for_line(self, pattern: str, *, seconds: float = START_SECONDS) -> re.Match[str]:
        """Wait for a match in the output, and return the first one.

        Raises:
            ProgramError: the process ended, or took too long.
        """
        found: list[re.Match[str]] = []

        def look() -> bool:
            found.extend(re.finditer(pattern, self.output, re.MULTILINE))
            return bool(found)

        self.wait_until(look, f"no line {pattern!r}", seconds=seconds)
        return found[0]

    def wait_until(self, condition: Callable[[], bool], problem: str, *, seconds: float = START_SECONDS) -> None:
        """Poll `condition` until it is true.

        Raises:
            ProgramError: the process ended, or took too long. The message begins with `problem`.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None:
                raise self.error(f"{problem} (exit code {self.process.returncode})")
            if time.monotonic() > deadline:
                raise self.error(f"{problem} within {seconds:.0f} s")
            time.sleep(0.005)

    def error(self, problem: str) -> ProgramError:
        """Return an error whose message ends with the last lines of the output."""
        return ProgramError("\n  ".join([f"{self.name}: {problem}", *self.output.splitlines()[-8:]]))

    def kill(self) -> None:
        """Kill the process and all processes that it has started, so that they cannot close anything first."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """Ask the process to end, and kill it if it does not. Idempotent."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        self.kill()

    def _signal(self, number: int) -> None:
        # The group may outlive its first process: sshd leaves one process for each connection.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


def run(command: Sequence[str | Path], *, seconds: float = 120.0, stdin: str = "") -> str:
    """Run a program to its end, and return its standard output.

    Raises:
        ProgramError: the program failed, or took too long. The message ends with its output.
    """
    name = Path(str(command[0])).name
    process = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
        start_new_session=True,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 (see above)
    )
    try:
        out, err = process.communicate(stdin, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise ProgramError(f"{name}: not done within {seconds:.0f} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        raise ProgramError("\n  ".join([f"{name}: exit code {process.returncode}", *(out + err).splitlines()[-8:]]))
    return out
