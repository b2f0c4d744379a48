"""``hybridrelay keys``: list, revoke."""

from __future__ import annotations

import argparse

from ...administration import revoke_key
from ...security import KeySlot
from .. import exits, output
from ..key_table import key_table, keys_as_dicts, roll_text, tell_ended
from ..relay_access import open_registry


def run_list(args: argparse.Namespace) -> int:
    """List the keys."""
    with open_registry(args) as registry:
        connection = registry.connection(args.name)
        rolls = {rule.name: registry.roll(args.name, rule.name) for rule in connection.rules}
        keys = None
        if args.show_keys:
            keys = {rule.name: registry.rule_with_keys(args.name, rule.name) for rule in connection.rules}
    if args.json:
        output.say_json(keys_as_dicts(connection, keys, rolls))
    else:
        output.say(key_table(connection, keys))
        for name, roll in rolls.items():
            if roll is not None:
                output.say()
                output.say(roll_text(name, roll))
    return exits.OK


def run_revoke(args: argparse.Namespace) -> int:
    """Revoke a key."""
    slot = KeySlot(args.key)
    with open_registry(args) as registry:
        done = revoke_key(registry, args.name, args.rule, slot, before_change=args.signals.hold)
    output.say(f"revoked the {slot} key of rule {args.rule} of {args.name}")
    tell_ended(args.name, args.rule, done.ended)
    if len(done.hosts) > 1:
        output.say(
            f"Its relays are {', '.join(done.hosts)}: at the others, the key is valid until it is revoked there."
        )
    if not done.has_other_key:
        output.say(f"Rule {args.rule} has no key left: 'keys regenerate' makes a new one.")
    return exits.OK
