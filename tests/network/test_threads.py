"""Worker threads that were started inside a namespace do not start programs of later tests there."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ..deployments import Program
from .lab import CLIENT, Lab

pytestmark = [pytest.mark.network, pytest.mark.skipif(sys.platform != "linux", reason="namespaces")]


def _namespace() -> str:
    return os.readlink("/proc/thread-self/ns/net")


def test_a_program_runs_in_the_namespace_of_the_main_thread(lab: Lab) -> None:
    here = _namespace()

    def start() -> tuple[str, str]:
        outside.wait()
        before = _namespace()
        with Program(["readlink", "/proc/self/ns/net"]) as program:
            program.wait()
            return before, program.out

    outside = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        with lab.inside(CLIENT):
            there = _namespace()
            started = pool.submit(start)
        outside.set()
        assert started.result(60) == (there, here)
    assert there != here
