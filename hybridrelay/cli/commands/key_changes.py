"""``hybridrelay keys use`` and ``keys regenerate``: keys change, together with the files that carry them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import exits, output, values
from ..parser import Subparsers, add_command
from ..shared_options import add_update

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...relay import HybridConnection
    from ...security import KeySlot, Rule, Secret
    from ..key_holders import KeyHolder

_USE = """\
Write one of a rule's two keys into connection string files, instead of the one that they carry. Nothing changes at
the relay, where both keys are valid. Programs that use the files change to the other key at SIGHUP, and keep every
connection.

This is the first step of changing keys without a pause. Once the programs use the other key, 'keys regenerate'
replaces the one that is no longer in use. docs/operating.md has the whole sequence.

The key comes from the relay's state directory; on other machines from the authority file, or from a file that holds
only the key (--key-file), which --out writes. An authority file in --update gets both keys as the relay has them.
"""
_USE_EXAMPLE = """\
examples:
  where the relay's state directory is:
    hybridrelay keys use orders --rule application --key secondary \\
      --state /var/lib/hybridrelay --update orders.application --out other-key
  on another machine, with the file other-key from there:
    hybridrelay keys use orders --rule application --key-file other-key \\
      --update orders.application
"""
_REGENERATE = """\
Replace one of a rule's keys with a new one. What the old one had authorized ends within a second.

Connection strings that carry the old key stop working. --update writes the new key into files on this machine:
connection strings that carry the old key, and the authority file. A connection string that uses the rule's other key
is not changed. Before the old key ends, everything about these files that can fail is checked. For other machines,
--out writes the new key to a file, for 'keys use --key-file' there; 'keys list --show-keys' shows it at any time.

To change keys without a pause, first let all programs use the rule's other key: hybridrelay keys use --help.

If the hybrid connection has several relays, its strings carry one key for all of them: write the new key to a file at
the first relay (--out), and give that file to each of the others (--new-key-file). A key that is already the rule's
primary or secondary key is refused.
"""
_REGENERATE_EXAMPLE = """\
example:
  hybridrelay keys regenerate orders --rule application --key primary \\
      --state /var/lib/hybridrelay --update orders.application --out new-key
  and at the other relays, with the file new-key from there:
    hybridrelay keys regenerate orders --rule application --key primary \\
      --state /var/lib/hybridrelay --new-key-file new-key
"""


def add_use(below: Subparsers) -> None:
    """Add ``keys use``."""
    parser = add_command(below, "use", "write one of a rule's keys into files", _USE, _USE_EXAMPLE)
    add_rule(parser)
    add_key(parser, required=False)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--state", metavar="DIR", type=values.path, help="take the key from this relay")
    source.add_argument("--authority-file", metavar="F", type=values.path, help="take the key from this file")
    source.add_argument(
        "--key-file", metavar="F", type=values.path, help="take the key that is in this file; needs no --key"
    )
    parser.add_argument("--out", metavar="F", type=values.path, help="write the key to this new file, for --key-file")
    add_update(parser, means="connection string files and authority files that are to use this key")
    parser.set_defaults(run=run_use, default_log_level="warning")


def add_regenerate(below: Subparsers) -> None:
    """Add ``keys regenerate``."""
    from .connections import add_state

    parser = add_command(below, "regenerate", "replace a key", _REGENERATE, _REGENERATE_EXAMPLE)
    add_rule(parser)
    add_key(parser)
    add_state(parser)
    parser.add_argument("--show-keys", action="store_true", help="print the new key")
    parser.add_argument("--out", metavar="F", type=values.path, help="write the new key to this new file")
    parser.add_argument(
        "--new-key-file", metavar="F", type=values.path, help="use the key in this file instead of a new one"
    )
    add_update(
        parser,
        means="connection string files and authority files of this rule: give the new key to those that have the old "
        "one",
    )
    parser.set_defaults(run=run_regenerate, default_log_level="warning")


def add_rule(parser: argparse.ArgumentParser) -> None:
    """Add ``NAME`` and ``--rule``."""
    parser.add_argument("name", metavar="NAME", type=values.connection_name, help="the hybrid connection")
    parser.add_argument("--rule", required=True, metavar="RULE", help="connector or application")


def add_key(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add ``--key``."""
    parser.add_argument(
        "--key", required=required, choices=("primary", "secondary"), help="which of the rule's two keys"
    )


def run_use(args: argparse.Namespace) -> int:
    """Write a key into files."""
    from ...errors import ConfigurationError
    from ...security import key_fingerprint
    from ..changes import change_with_files, only_command_on
    from ..files import check_new_files
    from ..key_holders import AuthorityFileKeys, read_key_holder

    if not args.update and args.out is None:
        raise ConfigurationError("no file is to be written", remedy="give --update, or --out, or both")
    if (args.key is None) != (args.key_file is not None):
        raise ConfigurationError("--key says which of the rule's keys; --key-file has only one", remedy="give one")
    check_new_files([args.out] if args.out else [])
    with only_command_on(args.update):
        holders = [read_key_holder(path, args.rule) for path in args.update]
        for holder in holders:
            holder.check_owner(args.name, args.rule)
            if args.key_file is not None and isinstance(holder, AuthorityFileKeys):
                raise ConfigurationError(
                    f"{holder.path} is an authority file, which has both keys",
                    remedy="update it with --state at the relay",
                )
        rule, slot = _source(args)
        key = rule.key(slot)
        if key is None:
            raise ConfigurationError(
                f"the {slot} key of rule {args.rule} of {args.name} is revoked",
                remedy="make one with 'keys regenerate'",
            )
        change_with_files(
            lambda: None,
            hold=args.signals.hold,
            replace={holder.path: holder.using(rule, slot) for holder in holders},
            create={args.out: key.reveal() + "\n"} if args.out else {},
            what="the key is unchanged",
            remedy="make it possible to write these files, and run the command again",
        )
    if args.out:
        output.say(f"wrote the key to {args.out}")
    if holders:
        output.say(
            f"The key in use there has the fingerprint {key_fingerprint(key)}. Send SIGHUP to the programs that"
        )
        output.say("use these files: the connector first. They say in their logs when everything uses this key.")
    return exits.OK


def _source(args: argparse.Namespace) -> tuple[Rule, KeySlot]:
    """The rule with the key that is to be used, and the key's place in it.

    Raises:
        ConfigurationError: the source cannot be read, or is not for this rule of this hybrid connection.
    """
    from ...errors import ConfigurationError
    from ...relay import SQLiteStore
    from ...security import KeySlot, Right, Rule
    from ..key_holders import AuthorityFileKeys, read_key, read_key_holder

    if args.key_file is not None:
        return Rule(args.rule, {Right.SEND}, primary=read_key(args.key_file)), KeySlot.PRIMARY
    slot = KeySlot(args.key)
    if args.state is not None:
        with SQLiteStore.open(args.state, create=False) as registry:
            return registry.rule(args.name, args.rule), slot
    holder = read_key_holder(args.authority_file, args.rule)
    holder.check_owner(args.name, args.rule)
    if not isinstance(holder, AuthorityFileKeys):
        raise ConfigurationError(
            f"{args.authority_file} is a connection string file", remedy="give the authority file"
        )
    return holder.has, slot


def run_regenerate(args: argparse.Namespace) -> int:
    """Replace a key."""
    from ...relay import SQLiteStore
    from ...security import KeySlot, generate_key, key_fingerprint
    from ..changes import change_with_files, only_command_on
    from ..files import check_new_files
    from ..key_holders import read_key, read_key_holder

    slot = KeySlot(args.key)
    check_new_files([args.out] if args.out else [])
    key = generate_key() if args.new_key_file is None else read_key(args.new_key_file)
    with only_command_on(args.update), SQLiteStore.open(args.state, create=False) as registry:
        holders = [read_key_holder(path, args.rule) for path in args.update]
        known = registry.get(args.name)
        rule = registry.rule(args.name, args.rule)
        for holder in holders:
            holder.check_owner(args.name, args.rule)
        texts = [(holder, holder.regenerated(rule, slot, key)) for holder in holders]

        def change() -> None:
            registry.regenerate_key(args.name, args.rule, slot, key, known=rule)
            output.say(f"regenerated the {slot} key of rule {args.rule} of {args.name}: {key_fingerprint(key)}")
            tell_ended(args.name, args.rule, rule.key(slot))

        change_with_files(
            change,
            hold=args.signals.hold,
            replace={holder.path: text for holder, text in texts if text is not None},
            create={args.out: key.reveal() + "\n"} if args.out else {},
            what="the key was regenerated",
            remedy=f"the relay has the new key: once the files can be written, run: hybridrelay keys use {args.name} "
            f"--rule {args.rule} --key {slot} --state {args.state} --update FILE",
        )
    _tell_regenerated(args, known, slot, key, [holder for holder, text in texts if text is None])
    return exits.OK


def _tell_regenerated(
    args: argparse.Namespace, known: HybridConnection, slot: KeySlot, key: Secret, unchanged: Sequence[KeyHolder]
) -> None:
    for holder in unchanged:
        why = "has the new key already" if holder.carries(key) else f"uses the {slot.other} key"
        output.say(f"{holder.path} {why}: left as it is")
    if args.out:
        output.say(f"wrote the new key to {args.out}")
    if args.show_keys:
        output.say(f"SharedAccessKey={key.reveal()}")
    output.say(
        "Every other connection string that carried the old key needs the new one (keys use --help), and every"
    )
    output.say("authority file as well. Then send SIGHUP to the programs that use these files.")
    if len(known.hosts) > 1:
        output.say(
            f"Its relays are {', '.join(known.hosts)}: give the other relays this key as well (--new-key-file)."
        )


def tell_ended(name: str, rule: str, old: Secret | None) -> None:
    """Say what the end of a rule's key means; None for one that was revoked before."""
    from ...security import key_fingerprint

    if old is None:
        output.say("It was revoked before: no connection string stops working.")
    else:
        output.say(
            f"Connection strings of {name} with SharedAccessKeyName={rule} and the old key (fingerprint "
            f"{key_fingerprint(old)}) stop working now."
        )
