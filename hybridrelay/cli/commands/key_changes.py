"""``hybridrelay keys use`` and ``keys regenerate``: keys change, together with the files that carry them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import exits, output, values
from ..parser import Subparsers, add_command
from ..shared_options import add_update

if TYPE_CHECKING:
    from ...administration import KeySource
    from ...security import Secret

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
    from ...administration import use_key
    from ...errors import ConfigurationError
    from ...security import key_fingerprint
    from ..results import tell_updated

    if not args.update and args.out is None:
        raise ConfigurationError("no file is to be written", remedy="give --update, or --out, or both")
    if (args.key is None) != (args.key_file is not None):
        raise ConfigurationError("--key says which of the rule's keys; --key-file has only one", remedy="give one")
    done = use_key(
        lambda: _source(args),
        args.name,
        args.rule,
        update=args.update,
        out=args.out,
        before_change=args.signals.hold,
    )
    tell_updated(done.updated, done.incomplete)
    if args.out:
        output.say(f"wrote the key to {args.out}")
    if args.update:
        output.say(
            f"The key in use there has the fingerprint {key_fingerprint(done.key)}. Send SIGHUP to the programs that"
        )
        output.say("use these files: the connector first. They say in their logs when everything uses this key.")
    return exits.OK


def _source(args: argparse.Namespace) -> KeySource:
    from ...administration import KeySource
    from ...relay import SQLiteStore
    from ...security import KeySlot

    if args.key_file is not None:
        return KeySource.of_key_file(args.key_file, args.rule)
    slot = KeySlot(args.key)
    if args.authority_file is not None:
        return KeySource.of_authority_file(args.authority_file, args.name, args.rule, slot)
    with SQLiteStore.open(args.state, create=False) as store:
        return KeySource.of_store(store, args.name, args.rule, slot)


def run_regenerate(args: argparse.Namespace) -> int:
    """Replace a key."""
    from ...administration import regenerate_key
    from ...relay import SQLiteStore
    from ...security import KeySlot, key_fingerprint
    from ..results import tell_updated

    slot = KeySlot(args.key)
    with SQLiteStore.open(args.state, create=False) as store:
        done = regenerate_key(
            store,
            args.name,
            args.rule,
            slot,
            key_file=args.new_key_file,
            update=args.update,
            out=args.out,
            remedy=f"the relay has the new key: once the files can be written, run: hybridrelay keys use {args.name} "
            f"--rule {args.rule} --key {slot} --state {args.state} --update FILE",
            before_change=args.signals.hold,
        )
    output.say(f"regenerated the {slot} key of rule {args.rule} of {args.name}: {key_fingerprint(done.key)}")
    tell_ended(args.name, args.rule, done.ended)
    tell_updated(done.updated, done.incomplete)
    for file in done.unchanged:
        why = "has the new key already" if file.has_new_key else f"uses the {slot.other} key"
        output.say(f"{file.path} {why}: left as it is")
    if args.out:
        output.say(f"wrote the new key to {args.out}")
    if args.show_keys:
        output.say(f"SharedAccessKey={done.key.reveal()}")
    output.say(
        "Every other connection string that carried the old key needs the new one (keys use --help), and every"
    )
    output.say("authority file as well. Then send SIGHUP to the programs that use these files.")
    if len(done.hosts) > 1:
        output.say(
            f"Its relays are {', '.join(done.hosts)}: give the other relays this key as well (--new-key-file)."
        )
    return exits.OK


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
