"""``hybridrelay probe``."""

from __future__ import annotations

import argparse

from .. import exits, output
from ..connection_strings import WHERE_FROM, add_mode, load_all
from ..parser import Subparsers, add_command
from ..proxy_options import add_proxy, make_dial

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
    add_mode(parser)
    add_proxy(parser)
    parser.set_defaults(run=run, default_log_level="warning")


def run(args: argparse.Namespace) -> int:
    """Probe, and print the report."""
    from ...connectivity import Prober, RelayEndpoint, Report
    from ..running import run_until_stopped

    dial = make_dial(args)
    (string,) = load_all([] if args.file is None else [args.file])
    reports: list[Report] = []

    async def main() -> None:
        prober = Prober(RelayEndpoint.from_connection_string(string), mode=args.mode, dial=dial)
        reports.append(await prober.survey())

    stopped_by = run_until_stopped(main)
    if not reports:
        assert stopped_by is not None
        return exits.SIGNAL + stopped_by
    (report,) = reports
    output.say(report.as_json() if args.json else report.as_table())
    return exits.OK if report.chosen is not None else exits.FAILED
