"""``hybridrelay keys``: list, regenerate, revoke."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .. import exits, output, values
from ..parser import Parser, Subparsers, add_command
from ..shared_options import add_update
from .connections import add_state

if TYPE_CHECKING:
    from ...security import Secret

_REGENERATE = """\
Put a new key in the place of a rule's key. What the old one had authorized ends within a second.

The connection strings that carry the old key stop working. Those which are files on this machine (and the authority
file, if it is here) are given the new key at once with --update. On other machines, write the new key behind
SharedAccessKey= into the connection string, and behind "key" in the authority file's section of the rule: --out
writes it to a file, and 'keys list --show-keys' shows it at any time.

To change keys without a pause: every rule has two. Move all strings to the other key first, then regenerate this one.

Where the hybrid connection has several relays, its strings carry one key for all of them: write the new key to a file
at the first (--out), and give that file to each of the others (--new-key-file). A key that the rule has already, in
either place, is refused.
"""
_REGENERATE_EXAMPLE = """\
example:
  hybridrelay keys regenerate orders --rule application --key primary \\
      --state /var/lib/hybridrelay --update orders.application --out new-key
  and at the other relays, with the file new-key from there:
    hybridrelay keys regenerate orders --rule application --key primary \\
      --state /var/lib/hybridrelay --new-key-file new-key
"""
_REVOKE = """\
Take a rule's key out of use, for good. What it had authorized ends within a second, and the connection strings that
carry it stop working. 'keys regenerate' fills the place again. To shut out one application alone, leave its key, and
put its label into the connector's --shut-out file.
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
        "list, regenerate or revoke the keys of a hybrid connection",
        "The shared access keys with which connectors and applications prove their rights to the relay. Each rule\n"
        "has two, primary and secondary, which are changed independently. A new hybrid connection has the rules\n"
        "'connector' (right Listen) and 'application' (right Send); its strings carry the primary keys.",
        "each of them has its own --help:\n  hybridrelay keys regenerate --help\n",
    )
    below: Any = group.add_subparsers(title="commands", metavar="COMMAND", dest="subcommand", required=True)
    listing = add_command(
        below,
        "list",
        "list the rules and their keys",
        "List the rules of a hybrid connection, and their keys by fingerprint.",
        "example:\n  hybridrelay keys list orders --state /var/lib/hybridrelay\n",
    )
    regenerating = add_command(below, "regenerate", "replace a key", _REGENERATE, _REGENERATE_EXAMPLE)
    revoking = add_command(below, "revoke", "take a key out of use", _REVOKE, _REVOKE_EXAMPLE)
    for parser, run in ((listing, run_list), (regenerating, run_regenerate), (revoking, run_revoke)):
        parser.add_argument("name", metavar="NAME", type=values.connection_name, help="the hybrid connection")
        if parser is not listing:
            _add_key(parser)
        add_state(parser)
        parser.set_defaults(run=run, default_log_level="warning")
    listing.add_argument("--show-keys", action="store_true", help="show the keys themselves")
    listing.add_argument("--json", action="store_true", help="JSON for programs")
    regenerating.add_argument("--show-keys", action="store_true", help="print the new key")
    regenerating.add_argument("--out", metavar="F", type=values.path, help="write the new key to this new file")
    regenerating.add_argument(
        "--new-key-file", metavar="F", type=values.path, help="take the new key from this file, and make none"
    )
    add_update(
        regenerating,
        means="connection string files and authority files that carry the old key: give them the new one",
    )


def _add_key(parser: Parser) -> None:
    parser.add_argument("--rule", required=True, metavar="RULE", help="connector or application")
    parser.add_argument("--key", required=True, choices=("primary", "secondary"), help="which of its two keys")


def run_list(args: argparse.Namespace) -> int:
    """List the keys."""
    from ...relay import Registry
    from ..key_table import key_rows, keys_as_dicts

    with Registry.open(args.state, create=False) as registry:
        connection = registry.get(args.name)
    if args.json:
        output.say_json(keys_as_dicts(connection, show_keys=args.show_keys))
    else:
        last = "KEY TEXT" if args.show_keys else "FINGERPRINT"
        output.say(output.table(("RULE", "RIGHTS", "KEY", last), key_rows(connection, show_keys=args.show_keys)))
    return exits.OK


def run_regenerate(args: argparse.Namespace) -> int:
    """Replace a key."""
    from ...errors import HybridRelayError
    from ...relay import Registry
    from ...security import KeySlot
    from ..files import check_new_files, new_files
    from ..key_holders import check_key_holder, read_key, read_key_holder
    from ..key_table import fingerprint

    slot = KeySlot(args.key)
    check_new_files([args.out] if args.out else [])
    # All that can be wrong with the files is found out before the old key ends.
    holders = [read_key_holder(path, args.rule) for path in args.update]
    given = None if args.new_key_file is None else read_key(args.new_key_file)
    with Registry.open(args.state, create=False) as registry:
        known = registry.get(args.name)
        rule = known.rule(args.rule)
        old = rule.key(slot) if rule else None
        for holder in holders:
            check_key_holder(holder, args.name, args.rule, old)
        key = registry.regenerate_key(args.name, args.rule, slot, given)
    output.say(f"regenerated the {slot} key of rule {args.rule} of {args.name}: fingerprint {fingerprint(key)}")
    _tell_ended(args.name, args.rule, old)
    try:
        for holder in holders:
            holder.write(key)
            output.say(f"updated {holder.path}")
        if args.out:
            with new_files({args.out: key.reveal() + "\n"}):
                output.say(f"wrote the new key to {args.out}")
    except OSError as exc:
        raise HybridRelayError(
            f"the key was regenerated, but a file was not written: {exc.strerror}",
            remedy="see the new key with 'hybridrelay keys list --show-keys', and put it there by hand",
        ) from exc
    if args.show_keys:
        output.say(f"SharedAccessKey={key.reveal()}")
    output.say("Put the new key behind SharedAccessKey= in every other connection string that carried the old one,")
    output.say('and behind "key" in the authority file; keys list --show-keys shows it. Restart what uses them.')
    if len(known.hosts) > 1:
        output.say(f"Its relays are {', '.join(known.hosts)}: give the others this key, too (--new-key-file).")
    return exits.OK


def run_revoke(args: argparse.Namespace) -> int:
    """Take a key out of use."""
    from ...relay import Registry
    from ...security import KeySlot

    slot = KeySlot(args.key)
    with Registry.open(args.state, create=False) as registry:
        known = registry.get(args.name)
        rule = known.rule(args.rule)
        registry.revoke_key(args.name, args.rule, slot)
        left = registry.get(args.name).rule(args.rule)
    output.say(f"revoked the {slot} key of rule {args.rule} of {args.name}")
    _tell_ended(args.name, args.rule, rule.key(slot) if rule else None)
    if len(known.hosts) > 1:
        output.say(
            f"Its relays are {', '.join(known.hosts)}: at the others the key is good until it is revoked there."
        )
    if left is not None and left.primary is None and left.secondary is None:
        output.say(f"Rule {args.rule} has no key left: keys regenerate makes one.")
    return exits.OK


def _tell_ended(name: str, rule: str, old: Secret | None) -> None:
    from ..key_table import fingerprint

    if old is None:
        output.say("It was revoked before: no connection string stops working.")
    else:
        output.say(
            f"Connection strings of {name} with SharedAccessKeyName={rule} and the old key (fingerprint "
            f"{fingerprint(old)}) stop working now."
        )
