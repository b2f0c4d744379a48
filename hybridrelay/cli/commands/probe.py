"""``hybridrelay probe``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from .. import exits, output, values
from ..connection_strings import WHERE_FROM, add_mode, load_all
from ..parser import Subparsers, add_command
from ..proxy_options import add_proxy, make_dial

if TYPE_CHECKING:
    from ...connectivity import Prober, Report

_DESCRIPTION = f"""\
Try every route from this machine to the relay, and say which one would be used: for each port a connection, a round
trip of data, its time, and what to do about a failure. Works with the connection string of a connector or of an
application; no key is sent, and no connector is needed.

If the connection string names several relays, all of them are tried at the same time. There is a table and a result
for each of them, in the order of the string; with --json an array of their reports.

{WHERE_FROM}

Exit code 0: a route works, to at least one of several relays. 1: none does.
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
    parser.add_argument(
        "--json", action="store_true", help="JSON for programs: an object, or an array if there are several relays"
    )
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        type=values.seconds(1),
        nargs="?",
        const=30.0,
        help="probe repeatedly until stopped, with this pause between two probes (30); with --json, one line each",
    )
    add_mode(parser)
    add_proxy(parser)
    parser.set_defaults(run=run, default_log_level="warning")


def run(args: argparse.Namespace) -> int:
    """Probe, and print the report."""
    import trio

    from ...connectivity import Prober, RelayEndpoint
    from .. import async_output
    from ..running import run_until_stopped

    dial = make_dial(args)
    (string,) = load_all([] if args.file is None else [args.file])
    last: list[Report] = []

    async def main() -> None:
        nonlocal last
        probers = [Prober(endpoint, mode=args.mode, dial=dial) for endpoint in RelayEndpoint.all_from(string)]
        while True:
            last = await _survey(probers)
            await async_output.say(_present(last, as_json=args.json, watching=args.watch is not None))
            if args.watch is None or output.is_lost():
                return
            await trio.sleep(args.watch)

    stopped_by = run_until_stopped(main)
    if not last:
        assert stopped_by is not None
        return exits.SIGNAL + stopped_by
    return exits.OK if any(report.chosen is not None for report in last) else exits.FAILED


async def _survey(probers: Sequence[Prober]) -> list[Report]:
    """Probe all relays at the same time; their reports in order."""
    import trio

    reports: dict[Prober, Report] = {}

    async def survey(prober: Prober) -> None:
        reports[prober] = await prober.survey()

    async with trio.open_nursery() as nursery:
        for prober in probers:
            nursery.start_soon(survey, prober)
    return [reports[prober] for prober in probers]


def _present(reports: Sequence[Report], *, as_json: bool, watching: bool) -> str:
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    if as_json and watching:
        return "\n".join(json.dumps({"time": now, **report.as_dict()}) for report in reports)
    if as_json:
        found = [report.as_dict() for report in reports]
        return json.dumps(found[0] if len(found) == 1 else found, indent=2)
    tables = "\n\n".join(report.as_table() for report in reports)
    return f"{now}\n{tables}\n" if watching else tables
