"""``hybridrelay connections set-local-name``: changes the local name of a hybrid connection."""

from __future__ import annotations

import argparse

from ...administration import change_local_name
from ...errors import ConfigurationError
from ...security import choose_local_name
from .. import exits
from ..results import tell_updated


def run_set_local_name(args: argparse.Namespace) -> int:
    """Change the local name."""
    if not args.update:
        raise ConfigurationError("there is no file to change", remedy="name the files with --update")
    local_name = choose_local_name(args.local_name, None)
    done = change_local_name(args.name, local_name, args.update, before_change=args.signals.hold)
    tell_updated(done.updated, done.incomplete)
    return exits.OK
