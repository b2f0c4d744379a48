"""The arguments of ``hybridrelay rules`` and its subcommands."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values
from .options import add_name, add_relay

_SET = """\
Add a rule with two new keys, or change the rights of an existing rule, whose keys stay the same. If a rule loses a
right, everything that its keys had authorized ends within a second.

If an application has its own rule, its key can be changed or revoked without affecting other applications. Write its
connection string with 'connections issue --rule'. A hybrid connection has at most 12 rules.

Each relay of a hybrid connection has its own copy of the rules. If there are several relays, set the rule at each of
them. Then give it the same keys at all of them, as 'hybridrelay keys regenerate --help' explains.
"""
_SET_EXAMPLE = """\
example:
  hybridrelay rules set orders --rule reporting --rights send \\
      --state /var/lib/hybridrelay
  hybridrelay connections issue orders --role application --label reporting \\
      --rule reporting --state /var/lib/hybridrelay \\
      --authority-file orders.authority --out reporting.application
"""


def _add_list_arguments(parser: Parser) -> None:
    add_name(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_relay(parser, role="viewer")


def _add_set_arguments(parser: Parser) -> None:
    add_name(parser)
    _add_rule(parser)
    parser.add_argument(
        "--rights",
        metavar="R,R",
        type=values.rights,
        required=True,
        help="one or more of: listen (a connector), send (an application), manage (both, and administration)",
    )
    add_relay(parser)


def _add_delete_arguments(parser: Parser) -> None:
    add_name(parser)
    _add_rule(parser)
    add_relay(parser)


def _add_rule(parser: Parser) -> None:
    parser.add_argument(
        "--rule",
        required=True,
        metavar="RULE",
        type=values.rule_name,
        help="the name of the rule, with the characters A-Z a-z 0-9 . _ -",
    )


COMMAND = Command(
    "rules",
    "list, set or delete the authorization rules of a hybrid connection",
    "Manage the authorization rules of a hybrid connection. A rule is a set of rights with two keys. A new hybrid\n"
    "connection has the rules 'connector' (right Listen) and 'application' (right Send).",
    "each command has its own --help:\n  hybridrelay rules set --help\n",
    subcommands=(
        Command(
            "list",
            "list the rules and their rights",
            "List the rules of a hybrid connection, their rights, and which of their keys are valid.",
            "example:\n  hybridrelay rules list orders --state /var/lib/hybridrelay\n",
            _add_list_arguments,
            run="rules:run_list",
        ),
        Command(
            "set",
            "add a rule, or change its rights",
            _SET,
            _SET_EXAMPLE,
            _add_set_arguments,
            run="rules:run_set",
        ),
        Command(
            "delete",
            "delete a rule and its keys",
            "Delete a rule and its keys. Everything that the keys had authorized ends within a second, and\n"
            "connection strings that contain them stop working.",
            "example:\n  hybridrelay rules delete orders --rule reporting --state /var/lib/hybridrelay\n",
            _add_delete_arguments,
            run="rules:run_delete",
        ),
    ),
)
