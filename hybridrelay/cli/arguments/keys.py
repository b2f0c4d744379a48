"""The arguments of ``hybridrelay keys`` and its subcommands."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values
from .options import add_key, add_management, add_name, add_relay, add_rule, add_update

_USE = """\
Write one of a rule's two keys into connection string files, in place of the one that they contain. Nothing changes at
the relay, where both keys are valid. Programs that use the files change to the other key at SIGHUP, and keep every
connection.

This is the first step of changing keys without a pause. Once the programs use the other key, 'keys regenerate'
replaces the one that is no longer in use. docs/operating.md describes the whole procedure.

The key is read from the relay (--state on its machine, --management on any other), from the authority file, or from a
file that contains only the key (--key-file) and was written with --out. An authority file in --update gets both keys
of the rule.
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
    parser.add_argument("--show-keys", action="store_true", help="show the keys themselves")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_relay(parser)


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
        "--key-file", metavar="F", type=values.path, help="use the key in this file; --key is then not needed"
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


def _add_revoke_arguments(parser: Parser) -> None:
    add_rule(parser)
    add_key(parser)
    add_relay(parser)


COMMAND = Command(
    "keys",
    "list, use, regenerate or revoke the keys of a hybrid connection",
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
