"""Counting bytecodes: the figures do not depend on how busy the machine is."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from benchmarks.programs import environment, module


@pytest.mark.skipif(sys.platform == "win32", reason="the suite runs on Linux and macOS")
def test_the_counts_of_an_echo() -> None:
    command = module("micro.counts", "--only", "echo", "--functions", "400")
    # A tracer in this process would be that of the coverage measurement.
    done = subprocess.run(command, env=environment(), check=True, capture_output=True, text=True, timeout=100)
    total, *functions = done.stdout.splitlines()
    assert (found := re.match(r"echo +(\d+) bytecodes: 64 bytes there and back$", total))
    counts = {name: float(count) for count, name in (line.split(maxsplit=1) for line in functions)}
    assert sum(counts.values()) == pytest.approx(int(found[1]), rel=0.01)
    # Two messages, each of which is written once and read once.
    assert counts["mux/_directions.py:OutgoingDirection._send"] > 0
    assert counts["protocol/session.py:SessionCore.send_data"] % 2 == pytest.approx(0, abs=0.1)
