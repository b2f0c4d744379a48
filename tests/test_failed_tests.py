"""Tests that fail: they do not make later tests fail, and the run shows in few lines why they did."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .failures import describe_failure

TESTS = """
import gc, socket

import pytest

def test_one():
    first, second = socket.socket(), socket.socket()
    inner = ExceptionGroup("inner", [OSError("one"), OSError("two")])
    raise ExceptionGroup("outer", [ValueError("with sockets\\nthat are open"), inner])

def test_two():
    gc.collect()

@pytest.fixture
def broken():
    raise RuntimeError("no fixture")

def test_three(broken):
    pass
"""
CAUSES = """\
tests/test_some.py::test_three (setup)
    RuntimeError: no fixture
      at tests/test_some.py:16 (broken)
tests/test_some.py::test_one
    ValueError: with sockets
    that are open
    OSError: one
    OSError: two
====="""


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_run_says_about_its_failures(tmp_path: Path, workers: int) -> None:
    here = Path(__file__).parent
    (tmp_path / "tests").mkdir()
    for name in ("conftest.py", "failures.py"):
        shutil.copy(here / name, tmp_path / "tests")
    (tmp_path / "tests" / "test_some.py").write_text(TESTS)
    options = ["-W", "error", "-p", "no:cacheprovider", "--import-mode=importlib", "-n", str(workers)]
    command = [sys.executable, "-m", "pytest", *options, "--rootdir", str(tmp_path), "tests"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=100)
    assert "1 failed, 1 passed, 1 error" in done.stdout, "what `test_one` leaves open is not a failure of `test_two`"
    assert CAUSES in done.stdout.partition("= causes of the failures =")[2]


def test_what_a_failed_program_printed() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('what went wrong')"]
    for text in (True, False):
        with pytest.raises(subprocess.CalledProcessError) as caught:
            subprocess.run(command, check=True, capture_output=True, text=text)
        assert "stderr: what went wrong" in describe_failure(caught.value)
