"""A test that fails does not make later tests fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

TESTS = """
import gc, socket

def test_one():
    first, second = socket.socket(), socket.socket()
    raise AssertionError("with two open sockets")

def test_two():
    gc.collect()
"""


def test_what_a_failed_test_leaves_open_is_no_failure_of_the_next(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_some.py").write_text(TESTS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
    ]
    done = subprocess.run([*command, str(tmp_path)], check=False, capture_output=True, text=True, timeout=100)
    assert "1 failed, 1 passed" in done.stdout, done.stdout
