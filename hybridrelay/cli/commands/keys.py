"""``hybridrelay keys``: list, use, regenerate, revoke."""

from __future__ import annotations

import argparse

from .. import exits, output, values
from ..parser import Subparsers, add_command, add_commands
from .connections import add_state
from .key_changes import add_key, add_regenerate, add_rule, add_use, tell_ended

_REVOKE = """\
Take a rule's key out of use permanently. What it had authorized ends within a second, and the connection strings that
carry it stop working. 'keys regenerate' makes a new key in its place. To shut out a single application, do not revoke
its key, but put its label on the connector's deny list (--shut-out).
"""
_REVOKE_EXAMPLE = """\
example:
  hybridrelay keys revoke orders --rule application --key secondary \\
      --state /var/lib/hybridrelay
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    group = add_command(
        subparsers,
        "keys",
        "list, use, regenerate or revoke the keys of a hybrid connection",
        "The shared access keys with which connectors and applications prove their rights to the relay. Each rule\n"
        "has two, primary and secondary, which are changed independently. A new hybrid connection has the rules\n"
        "'connector' (right Listen) and 'application' (right Send); its strings carry the primary keys.",
        "each of them has its own --help:\n  hybridrelay keys regenerate --help\n",
    )
    below = add_commands(group, "subcommand")
    listing = add_command(
        below,
        "list",
        "list the rules and their keys",
        "List the rules of a hybrid connection, and their keys by fingerprint.",
        "example:\n  hybridrelay keys list orders --state /var/lib/hybridrelay\n",
    )
    add_use(below)
    add_regenerate(below)
    revoking = add_command(below, "revoke", "take a key out of use", _REVOKE, _REVOKE_EXAMPLE)
    listing.add_argument("name", metavar="NAME", type=values.connection_name, help="the hybrid connection")
    listing.add_argument("--show-keys", action="store_true", help="show the keys themselves")
    listing.add_argument("--json", action="store_true", help="JSON for programs")
    add_rule(revoking)
    add_key(revoking)
    for parser, run in ((listing, run_list), (revoking, run_revoke)):
        add_state(parser)
        parser.set_defaults(run=run, default_log_level="warning")


def run_list(args: argparse.Namespace) -> int:
    """List the keys."""
    from ...relay import SQLiteStore
    from ..key_table import key_rows, keys_as_dicts

    with SQLiteStore.open(args.state, create=False) as registry:
        connection = registry.get(args.name)
    if args.json:
        output.say_json(keys_as_dicts(connection, show_keys=args.show_keys))
    else:
        last = "KEY TEXT" if args.show_keys else "FINGERPRINT"
        output.say(output.table(("RULE", "RIGHTS", "KEY", last), key_rows(connection, show_keys=args.show_keys)))
    return exits.OK


def run_revoke(args: argparse.Namespace) -> int:
    """Take a key out of use."""
    from ...administration import revoke_key
    from ...relay import SQLiteStore
    from ...security import KeySlot

    slot = KeySlot(args.key)
    with SQLiteStore.open(args.state, create=False) as store:
        done = revoke_key(store, args.name, args.rule, slot, before_change=args.signals.hold)
    output.say(f"revoked the {slot} key of rule {args.rule} of {args.name}")
    tell_ended(args.name, args.rule, done.ended)
    if len(done.hosts) > 1:
        output.say(
            f"Its relays are {', '.join(done.hosts)}: at the others the key is valid until it is revoked there."
        )
    if not done.has_other_key:
        output.say(f"Rule {args.rule} has no key left: keys regenerate makes one.")
    return exits.OK
