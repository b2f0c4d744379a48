"""``hybridrelay connections disable`` and ``hybridrelay connections enable``."""

from __future__ import annotations

import argparse

from ...administration import set_disabled
from .. import exits, output
from ..relay_access import open_registry


def run_disable(args: argparse.Namespace) -> int:
    """Disable a hybrid connection."""
    hosts = _set(args, disabled=True)
    output.say(f"disabled {args.name}: everything that uses it ends, and is refused until 'connections enable'")
    if len(hosts) > 1:
        output.say(f"Its relays are {', '.join(hosts)}: at the others it works until it is disabled there.")
    return exits.OK


def run_enable(args: argparse.Namespace) -> int:
    """Enable a hybrid connection again."""
    _set(args, disabled=False)
    output.say(f"enabled {args.name}")
    return exits.OK


def _set(args: argparse.Namespace, *, disabled: bool) -> tuple[str, ...]:
    """Make the change, and return the relays of the hybrid connection."""
    with open_registry(args) as registry:
        return set_disabled(registry, args.name, disabled=disabled, before_change=args.signals.hold)
