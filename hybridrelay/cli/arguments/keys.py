"""The arguments of ``hybridrelay keys`` and its subcommands."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values
from .options import add_key, add_management, add_name, add_relay, add_rule, add_update

_USE = """\
Write one of a rule's two keys into connection string files, in place of the one that they contain. Nothing changes at
the relay, where both keys are valid. Programs that use the files change to the other key within seconds, and keep
every connection.

This is the first step of changing keys without a pause. Once the programs use the other key, 'keys regenerate'
replaces the one that is no longer in use. docs/operating.md describes the whole procedure.

The key is read from the relay (--state on its machine, --management on any other), from the authority file, or from a
file that contains only the key (--key-file) and was written with --out. An authority file in --update gets both keys
of the rule, so it cannot be updated with --key-file.
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
Replace one of a rule's keys with a new one. Everything that the old key had authorized ends within a second.

Connection strings that contain the old key stop working. There are three ways to get the new key to its users:
  --update F ...    writes the new key into files on this machine: connection
                    strings that contain the old key, and the authority file.
                    A connection string that uses the rule's other key is not
                    changed. If one of the files cannot be written, nothing
                    changes.
  --out F           writes the new key to a file. Copy it to another machine,
                    and run 'keys use --key-file F' there.
  --show-keys       prints the new key. 'keys list --show-keys' shows it at
                    any later time.

To change keys without a pause, first let all programs use the rule's other key; see 'hybridrelay keys use --help'.

If the hybrid connection has several relays, its connection strings contain one key for all of them. Write the new key
to a file at the first relay (--out), and use that file at each of the others (--new-key-file). A key that is already
the rule's primary or secondary key is refused.
"""
_REGENERATE_EXAMPLE = """\
example:
  hybridrelay keys regenerate orders --rule application --key primary \\
      --state /var/lib/hybridrelay --update orders.application --out new-key
  and at the other relays, with the file new-key from there:
    hybridrelay keys regenerate orders --rule application --key primary \\
      --state /var/lib/hybridrelay --new-key-file new-key
"""

_ROLL = """\
Change a key routinely, without a pause, and without touching the programs that use it. The relay gets a new key in
the rule's other slot (primary or secondary), and gives it to every connected program that uses the rule. The programs
write it into their connection string files, and use it from then on. When all of them have it, the relay revokes the
old key; at the latest, it does so after --grace. 'keys list' shows which programs do not have the new key:

  asked      the program has not answered
  memory     the program uses the new key, but can write neither its connection
             string file nor a copy: update the file ('keys use'), or the
             program will use the old key again after a restart
  waiting    another relay in the program's connection string does not accept
             the new key yet: roll the key there, too

A program that is not connected while the key is rolled does not get the new key. If there are such programs, give
--wait-for-grace, and connect them before --grace is over, or write the new key into their files ('keys use').

If a key may have been stolen, do not roll it: anyone with the old key would get the new one. 'keys regenerate' and
'keys revoke' end its use immediately.

If the hybrid connection has several relays, roll the key at each of them: write the new key to a file at the first
one (--out), and use it at the others (--new-key-file). The programs use the new key once all of their relays accept
it. A relay to which no program is connected waits until the end of --grace.
"""
_ROLL_EXAMPLE = """\
example:
  hybridrelay keys roll orders --rule application --state /var/lib/hybridrelay
  hybridrelay keys list orders --state /var/lib/hybridrelay
  with two relays, and with the authority file:
    hybridrelay keys roll orders --rule connector --out new-key \\
      --update orders.authority --management https://a.example.com:9180
    hybridrelay keys roll orders --rule connector --new-key-file new-key \\
      --management https://b.example.com:9180
"""
_REVOKE = """\
Revoke one of a rule's keys. Everything that it had authorized ends within a second, and connection strings that
contain it stop working. 'keys regenerate' makes a new key in its place. To deny access to a single application, do
not revoke the key, which other applications may share; put its label on the connector's deny list (--deny-list).
"""
_REVOKE_EXAMPLE = """\
example:
  hybridrelay keys revoke orders --rule application --key secondary \\
      --state /var/lib/hybridrelay
"""


def _add_list_arguments(parser: Parser) -> None:
    add_name(parser)
    parser.add_argument("--show-keys", action="store_true", help="show the keys themselves; needs an admin's token")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_relay(parser, role="viewer")


def _add_use_arguments(parser: Parser) -> None:
    add_rule(parser)
    add_key(parser, required=False)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--state", metavar="DIR", type=values.path, help="take the key from the relay on this machine"
    )
    add_management(source, parser)
    source.add_argument(
        "--authority-file", metavar="F", type=values.path, help="take the key from this authority file"
    )
    source.add_argument(
        "--key-file", metavar="F", type=values.path, help="use the key in this file, instead of --key"
    )
    parser.add_argument(
        "--out", metavar="F", type=values.path, help="create this file with the key in it, for --key-file"
    )
    add_update(parser, means="connection string files and authority files that are to use this key")


def _add_regenerate_arguments(parser: Parser) -> None:
    add_rule(parser)
    add_key(parser)
    add_relay(parser)
    parser.add_argument("--show-keys", action="store_true", help="print the new key")
    parser.add_argument("--out", metavar="F", type=values.path, help="create this file with the new key in it")
    parser.add_argument(
        "--new-key-file", metavar="F", type=values.path, help="use the key in this file instead of generating one"
    )
    add_update(
        parser,
        means="connection string files and authority files of this rule; those that contain the old key get the new "
        "one",
    )


def _add_roll_arguments(parser: Parser) -> None:
    add_rule(parser)
    add_key(parser, required=False, means="the key that the programs use now (default: the one that was used last)")
    parser.add_argument(
        "--grace",
        metavar="TIME",
        type=values.grace,
        default=7 * 86_400.0,
        help="after this time, such as 30m, 12h or 7d, the old key is revoked even if not all programs have the new "
        "one; at least 10s, at most 30d (default: 7d)",
    )
    parser.add_argument(
        "--wait-for-grace",
        action="store_true",
        help="keep the old key valid until the end of --grace, because some programs are not connected now",
    )
    add_relay(parser)
    parser.add_argument("--out", metavar="F", type=values.path, help="create this file with the new key in it")
    parser.add_argument(
        "--new-key-file", metavar="F", type=values.path, help="use the key in this file instead of generating one"
    )
    add_update(parser, means="authority files, into which the new key is written")


def _add_revoke_arguments(parser: Parser) -> None:
    add_rule(parser)
    add_key(parser)
    add_relay(parser)


COMMAND = Command(
    "keys",
    "list, use, roll, regenerate or revoke the keys of a hybrid connection",
    "Manage the shared access keys with which connectors and applications prove their rights to the relay. Each\n"
    "rule has two, primary and secondary, which are changed independently. A new hybrid connection has the rules\n"
    "'connector' (right Listen) and 'application' (right Send); its connection strings contain the primary keys.",
    "each command has its own --help:\n  hybridrelay keys regenerate --help\n",
    subcommands=(
        Command(
            "list",
            "list the rules and their keys",
            "List the rules of a hybrid connection, and their keys by fingerprint.",
            "example:\n  hybridrelay keys list orders --state /var/lib/hybridrelay\n",
            _add_list_arguments,
            run="keys:run_list",
        ),
        Command(
            "use",
            "write one of a rule's keys into files",
            _USE,
            _USE_EXAMPLE,
            _add_use_arguments,
            run="key_changes:run_use",
        ),
        Command(
            "roll",
            "replace a key, and deliver the new one to the programs that use it",
            _ROLL,
            _ROLL_EXAMPLE,
            _add_roll_arguments,
            run="key_changes:run_roll",
        ),
        Command(
            "regenerate",
            "replace a key",
            _REGENERATE,
            _REGENERATE_EXAMPLE,
            _add_regenerate_arguments,
            run="key_changes:run_regenerate",
        ),
        Command(
            "revoke",
            "revoke a key",
            _REVOKE,
            _REVOKE_EXAMPLE,
            _add_revoke_arguments,
            run="keys:run_revoke",
        ),
    ),
)
