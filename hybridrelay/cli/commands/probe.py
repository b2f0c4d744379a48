"""``hybridrelay probe``."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from typing import TYPE_CHECKING

from .. import exits, output
from ..connection_strings import WHERE_FROM, add_mode, load_all
from ..parser import Subparsers, add_command
from ..proxy_options import add_proxy, make_dial

if TYPE_CHECKING:
    from ...connectivity import Report

_DESCRIPTION = f"""\
Try every route from this machine to the relay, and say which one would be used: for each port a connection, a round
trip of data, its time, and what to do about a failure. Works with a connector's string and with an application's; no
key is sent, and no connector is needed.

{WHERE_FROM}

Exit code 0: a route works. 1: none does.
"""
_EXAMPLES = """\
examples:
  hybridrelay probe --connection-string-file orders.application
  hybridrelay probe --connection-string-file orders.connector --mode tcp --json
  through a proxy:
    hybridrelay probe --connection-string-file orders.application \\
        --proxy http://me@proxy.corp:3128 --proxy-password-file password
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(subparsers, "probe", "try which routes to the relay work", _DESCRIPTION, _EXAMPLES)
    parser.add_argument(
        "--connection-string-file", metavar="F", dest="file", help="a connection string; - for standard input"
    )
    parser.add_argument("--json", action="store_true", help="JSON for programs")
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        type=_pause,
        nargs="?",
        const=30.0,
        help="probe again and again, so long after each time (30), until stopped; with --json, a report a line",
    )
    add_mode(parser)
    add_proxy(parser)
    parser.set_defaults(run=run, default_log_level="warning")


def run(args: argparse.Namespace) -> int:
    """Probe, and print the report."""
    import trio

    from ...connectivity import Prober, RelayEndpoint
    from ..running import run_until_stopped

    dial = make_dial(args)
    (string,) = load_all([] if args.file is None else [args.file])
    last: Report | None = None

    async def main() -> None:
        nonlocal last
        prober = Prober(RelayEndpoint.from_connection_string(string), mode=args.mode, dial=dial)
        while True:
            last = await prober.survey()
            output.say(_present(last, as_json=args.json, watching=args.watch is not None))
            if args.watch is None:
                return
            await trio.sleep(args.watch)

    stopped_by = run_until_stopped(main)
    if last is None:
        assert stopped_by is not None
        return exits.SIGNAL + stopped_by
    return exits.OK if last.chosen is not None else exits.FAILED


def _present(report: Report, *, as_json: bool, watching: bool) -> str:
    if not watching:
        return report.as_json() if as_json else report.as_table()
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    if as_json:
        return json.dumps({"time": now, **json.loads(report.as_json())})
    return f"{now}\n{report.as_table()}\n"


def _pause(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 86_400:
        raise ValueError("out of range")
    return seconds
