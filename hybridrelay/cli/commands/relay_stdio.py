"""``hybridrelay relay-stdio``."""

from __future__ import annotations

import argparse

from ...relay.stdio import connect_stdio
from .. import exits
from ..running import run_until_stopped


def run(args: argparse.Namespace) -> int:
    """Connect standard input and output to the relay until either ends."""

    async def main() -> None:
        await connect_stdio(args.state)

    stopped_by = run_until_stopped(main)
    return exits.OK if stopped_by is None else exits.SIGNAL + stopped_by
