"""``hybridrelay keys use``, ``roll`` and ``regenerate``: change keys together with the files that contain them."""

from __future__ import annotations

import argparse
import time

from ...administration import KeySource, regenerate_key, roll_key, use_key
from ...errors import ConfigurationError
from ...security import KeySlot, key_fingerprint
from .. import exits, output
from ..key_table import tell_ended
from ..relay_access import describe_access, open_registry
from ..results import tell_updated
from ..times import utc_text


def run_use(args: argparse.Namespace) -> int:
    """Write a key into files."""
    if not args.update and args.out is None:
        raise ConfigurationError("there is no file to write", remedy="give --update, or --out, or both")
    if (args.key is None) != (args.key_file is not None):
        raise ConfigurationError(
            "exactly one of --key and --key-file is needed: a key file contains only one key",
            remedy="give one of the two",
        )
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
            f"The key in these files has the fingerprint {key_fingerprint(done.key)}. The programs that use\n"
            "these files change to it within seconds. They log key.in-use when nothing uses an earlier key any "
            "longer."
        )
    return exits.OK


def _source(args: argparse.Namespace) -> KeySource:
    if args.key_file is not None:
        return KeySource.of_key_file(args.key_file, args.rule)
    slot = KeySlot(args.key)
    if args.authority_file is not None:
        return KeySource.of_authority_file(args.authority_file, args.name, args.rule, slot)
    with open_registry(args) as registry:
        return KeySource.of_registry(registry, args.name, args.rule, slot)


def run_regenerate(args: argparse.Namespace) -> int:
    """Replace a key."""
    slot = KeySlot(args.key)
    with open_registry(args) as registry:
        done = regenerate_key(
            registry,
            args.name,
            args.rule,
            slot,
            key_file=args.new_key_file,
            update=args.update,
            out=args.out,
            use_command=f"hybridrelay keys use {args.name} --rule {args.rule} --key {slot} {describe_access(args)} "
            "--update FILE",
            before_change=args.signals.hold,
        )
    output.say(f"regenerated the {slot} key of rule {args.rule} of {args.name}: {key_fingerprint(done.key)}")
    tell_ended(args.name, args.rule, done.ended)
    tell_updated(done.updated, done.incomplete)
    for file in done.unchanged:
        why = "already has the new key" if file.has_new_key else f"uses the {slot.other} key"
        output.say(f"{file.path} {why}: not changed")
    if args.out:
        output.say(f"wrote the new key to {args.out}")
    if args.show_keys:
        output.say(f"SharedAccessKey={done.key.reveal()}")
    if done.ended is None:
        output.say(
            "Write the new key into the files that are to use it, and into all authority files (keys use --help)."
        )
    else:
        output.say(
            "Every other connection string that contains the old key needs the new one (keys use --help), and so\n"
            "does every authority file. A program that used the old key ends, unless another relay or connection\n"
            "string keeps it running: start it again with the new key. One that still runs uses the\n"
            "new key as soon as it is in its file."
        )
    if len(done.hosts) > 1:
        output.say(
            f"Its relays are {', '.join(done.hosts)}: give the other relays the same key too (--new-key-file)."
        )
    return exits.OK


def run_roll(args: argparse.Namespace) -> int:
    """Begin to roll a key."""
    with open_registry(args) as registry:
        done = roll_key(
            registry,
            args.name,
            args.rule,
            old=None if args.key is None else KeySlot(args.key),
            seconds=args.grace,
            waits=args.wait_for_grace,
            key_file=args.new_key_file,
            update=args.update,
            out=args.out,
            before_change=args.signals.hold,
        )
    until = utc_text(time.time() + args.grace)
    output.say(
        f"rolling the {done.slot.other} key of rule {args.rule} of {args.name} ({done.old}): the new key is the "
        f"{done.slot} one ({key_fingerprint(done.key)})"
    )
    tell_updated(done.updated, done.incomplete)
    if args.out:
        output.say(f"wrote the new key to {args.out}")
    if args.wait_for_grace:
        output.say(f"The old key stays valid until {until}.")
    else:
        output.say(f"The old key is revoked when all programs have the new one, or at {until}.")
    output.say(
        f"To see which programs do not have the new key: hybridrelay keys list {args.name} {describe_access(args)}"
    )
    if len(done.hosts) > 1:
        output.say(
            f"Its relays are {', '.join(done.hosts)}: roll the key at the others, too, to the same new one\n"
            "(--new-key-file). The programs use the new key once all relays accept it."
        )
    return exits.OK
