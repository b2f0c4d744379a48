"""The arguments, which ``hybridrelay bench`` also uses. This module imports nothing that is slow to import."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = """\
Measure hybridrelay over native TCP, ws and wss, and its alternatives in turn: no tunnel, three plaintext forwarders,
ssh, and other tunnels that are on PATH. Every role runs in a process of its own on this machine; nothing
leaves the loopback interface. The short form takes about 16 minutes. Ctrl-C ends it early and keeps what was
measured until then.

Absolute figures depend on the machine. Only ratios within one run can be compared with those of other machines.
"""
EXAMPLES = """\
examples:
  hybridrelay bench
  hybridrelay bench --full --json new.json --html new.html
  hybridrelay bench --only bulk --only requests/64 --systems ssh,tcp
  hybridrelay bench compare old.json new.json
  hybridrelay bench check old.json new.json
  hybridrelay bench show new.json --html new.html
  hybridrelay bench list
"""
ACTIONS = ("run", "list", "show", "compare", "check", "micro")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all options."""
    parser.add_argument(
        "action",
        nargs="?",
        default="run",
        choices=ACTIONS,
        metavar="ACTION",
        help="run: measure (default); list: show cases and systems; show FILE: show an earlier run; compare OLD NEW: "
        "compare all figures; check OLD NEW: fail if a ratio of our figures to those of another system, such as ssh, "
        "has become worse or is missing; "
        "micro: measure parts of the code with pyperf",
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="results of earlier runs (JSON)")
    parser.add_argument(
        "--full", action="store_true", help="measure everything, long enough for precise figures: more than an hour"
    )
    parser.add_argument(
        "--only",
        metavar="CASE",
        action="append",
        help="only cases whose names begin with this, such as bulk or requests/64; may be repeated",
    )
    parser.add_argument("--systems", metavar="A,B", type=_names, help="only these systems")
    parser.add_argument("--seconds", metavar="S", type=_positive, help="the length of each measurement")
    parser.add_argument("--rounds", metavar="N", type=_count, help="how often each measurement is made")
    parser.add_argument(
        "--allow-skipped",
        action="store_true",
        help="check: do not fail if the new run has not tried to measure a ratio of the old one, for example because "
        "a server is not installed",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results here")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write a page with tables and plots here")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 3600:
        raise argparse.ArgumentTypeError("must be a number of seconds above 0 and below 3600")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 0 < value < 1000:
        raise argparse.ArgumentTypeError("must be a number from 1 to 999")
    return value
