"""Starts the micro-benchmarks in a separate process, which starts pyperf's workers."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..programs import environment, module

#: The environment variable with the benchmarks to run: workers get the environment, but not our arguments.
ONLY = "HYBRIDRELAY_BENCH_ONLY"


def run_micro(results: Path | None, only: Sequence[str] | None) -> int:
    """Run the micro-benchmarks, and return the exit code.

    Args:
        results: the file for pyperf's JSON, which ``python -m pyperf compare_to OLD NEW`` reads.
        only: prefixes of the names to run; None for all.
    """
    if importlib.util.find_spec("pyperf") is None:
        print("micro-benchmarks need pyperf: pip install pyperf", file=sys.stderr)
        return 1
    output = [] if results is None else ["--output", str(results)]
    command = module("micro", "--fast", "--quiet", f"--inherit-environ=PYTHONPATH,{ONLY}", *output)
    if results is not None:
        results.unlink(missing_ok=True)  # pyperf refuses to overwrite a file
    return subprocess.run(command, check=False, env={**environment(), ONLY: ",".join(only or ())}).returncode
