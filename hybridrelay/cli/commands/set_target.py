"""``hybridrelay connections set-target``: changes the target of a hybrid connection."""

from __future__ import annotations

import argparse

from ...administration import change_target
from ...errors import ConfigurationError
from .. import exits, output
from ..policy_denials import refuse_denied
from ..results import tell_updated


def run_set_target(args: argparse.Namespace) -> int:
    """Change the target."""
    if not args.update:
        raise ConfigurationError("there is no file to change", remedy="name the files with --update")
    refuse_denied(args.name, args.target)
    done = change_target(args.name, args.target, args.update, before_change=args.signals.hold)
    tell_updated(done.updated, done.incomplete)
    output.say("Connectors that run with these files use it within seconds.")
    return exits.OK
