"""``hybridrelay probe``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import datetime

import trio

from ...connectivity import Prober, RelayEndpoint, Report
from .. import async_output, exits, output
from ..connection_strings import load_all
from ..proxies import make_commands, make_dialer
from ..running import run_until_stopped

_NOT_TRIED = (
    "Only routes were tried, no key and no connector: for these, see the logs of the connector and of forward."
)


def run(args: argparse.Namespace) -> int:
    """Probe, and print the report."""
    commands = make_commands(args)
    dialer = make_dialer(args, commands)
    (string,) = load_all([] if args.file is None else [args.file])
    last: list[Report] = []

    async def main() -> None:
        nonlocal last
        probers = [Prober(endpoint, mode=args.mode, dialer=dialer) for endpoint in RelayEndpoint.all_from(string)]
        async with commands:
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
    """Probe all relays at the same time, and return their reports in the order of `probers`."""
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
    if any(report.chosen is not None for report in reports):
        tables += f"\n{_NOT_TRIED}"
    return f"{now}\n{tables}\n" if watching else tables
