"""Worker threads that were started inside a namespace do not start programs of later tests there."""

from __future__ import annotations

import os
import sys

import pytest
import trio

from ..deployments import Program
from .lab import CLIENT, Lab

pytestmark = [pytest.mark.network, pytest.mark.skipif(sys.platform != "linux", reason="namespaces")]


def _namespace() -> str:
    return os.readlink("/proc/thread-self/ns/net")


async def test_a_program_runs_in_the_namespace_of_the_main_thread(lab: Lab) -> None:
    here = _namespace()
    with lab.inside(CLIENT):
        there = await trio.to_thread.run_sync(_namespace)
    assert there != here

    def start() -> tuple[str, str]:
        before = _namespace()
        with Program(["readlink", "/proc/self/ns/net"]) as program:
            program.wait()
            return before, program.out

    assert await trio.to_thread.run_sync(start) == (there, here), "the thread is used again, and goes back"
