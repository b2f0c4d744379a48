"""``hybridrelay connections issuer``: gives a hybrid connection an issuer, or a new one."""

from __future__ import annotations

import argparse
import time

from ...administration import make_issuer
from .. import exits, output
from ..results import tell_updated
from ..times import utc_text


def run_issuer(args: argparse.Namespace) -> int:
    """Make an issuer."""
    made = make_issuer(
        args.name,
        args.authority_file,
        args.update,
        valid_years=args.valid_years,
        now=time.time(),
        before_change=args.signals.hold,
    )
    tell_updated(made.written.updated, made.written.incomplete)
    output.say(f"The issuer of {args.name} is valid until {utc_text(made.not_after)}.")
    if args.update:
        output.say("Connectors that run with these files use it within seconds.")
    else:
        output.say(
            "No connector has it yet: name connector files with --update, or issue new ones with\n"
            f"'hybridrelay connections issue {args.name} --role connector'."
        )
    return exits.OK
