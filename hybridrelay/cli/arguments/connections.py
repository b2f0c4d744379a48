"""The arguments of ``hybridrelay connections`` and its subcommands."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values
from .applying import APPLY
from .creation import CREATE
from .disabling import DISABLE, ENABLE
from .endpoints import ENDPOINTS
from .issuer import ISSUER
from .limits import LIMITS
from .options import add_local_name, add_management, add_name, add_relay, add_years
from .set_local_name import SET_LOCAL_NAME
from .set_target import SET_TARGET

_IMPORT = """\
Import a hybrid connection that was created with --relay-file. If it has several relays, import it at each of them. A
running relay serves it within a second. Delete the relay file afterwards: it contains keys. Importing the same file
again changes nothing; a different hybrid connection of the same name is refused.
"""
_ISSUE = """\
Issue a further connection string: for another application (with its own label in the connector's audit log, so that
access can be denied to it alone), for a second connector, or because an identity is about to expire. This needs only
the authority file; neither the relay nor the connector has to be changed.

The connection string contains the primary key of the rule 'connector' or 'application', or with --key secondary the
secondary one. The key is taken from the authority file. If that file may be out of date, use --state or --management
to take the key from the relay: a key that was rolled or regenerated on the dashboard is not in the file.

Relays and ports are taken from the authority file, even with --state. If a relay listens at other ports now, push an
update first (hybridrelay updates push --help), which also corrects the authority file.

With --rule, the connection string uses another rule, so that the key of one application can be changed or revoked
without affecting others (hybridrelay rules set --help). Its key is taken from the relay (--state, --management) or
from a file that 'keys use --out' has written at the relay (--key-file).
"""


def _add_import_arguments(parser: Parser) -> None:
    parser.add_argument("relay_file", metavar="RELAY-FILE", type=values.path, help="written by 'connections create'")
    add_relay(parser)


def _add_issue_arguments(parser: Parser) -> None:
    add_name(parser)
    parser.add_argument(
        "--role",
        choices=("application", "connector"),
        required=True,
        help="the side that the connection string is for",
    )
    parser.add_argument(
        "--label",
        metavar="L",
        type=values.label,
        required=True,
        help="the name of the new identity in the connector's audit log",
    )
    parser.add_argument(
        "--authority-file",
        metavar="F",
        type=values.path,
        required=True,
        help="the authority file of the hybrid connection",
    )
    parser.add_argument(
        "--out", metavar="F", type=values.path, required=True, help="the file to write the connection string to"
    )
    parser.add_argument(
        "--key",
        choices=("primary", "secondary"),
        default="primary",
        help="which of the rule's two keys (default: primary)",
    )
    parser.add_argument(
        "--rule",
        metavar="RULE",
        type=values.rule_name,
        help="the rule whose key the connection string contains (default: the rule of its role)",
    )
    add_local_name(parser, default="the one in the authority file; only for --role application")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--state", metavar="DIR", type=values.path, help="take the key from the relay on this machine"
    )
    source.add_argument("--key-file", metavar="F", type=values.path, help="take the key from this file")
    add_management(parser, parser)
    add_years(parser)


def _add_list_arguments(parser: Parser) -> None:
    _add_json(parser)
    add_relay(parser, role="viewer")


def _add_show_arguments(parser: Parser) -> None:
    add_name(parser)
    _add_json(parser)
    add_relay(parser, role="viewer")


def _add_delete_arguments(parser: Parser) -> None:
    add_name(parser)
    add_relay(parser)


def _add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


COMMAND = Command(
    "connections",
    "create, import, issue, change, disable, list, show or delete hybrid connections",
    "Manage hybrid connections: create them, import them at a relay, issue further connection strings, change their "
    "relays or their target.",
    "each command has its own --help:\n  hybridrelay connections create --help\n",
    subcommands=(
        CREATE,
        APPLY,
        Command(
            "import",
            "import a hybrid connection at the relay",
            _IMPORT,
            "example:\n  hybridrelay connections import orders.relay --state /var/lib/hybridrelay\n",
            _add_import_arguments,
            run="connections:run_import",
        ),
        Command(
            "issue",
            "issue a further connection string",
            _ISSUE,
            "example:\n  hybridrelay connections issue orders --role application --label reporting \\\n"
            "      --authority-file orders.authority --out reporting.application\n",
            _add_issue_arguments,
            run="connections:run_issue",
        ),
        ISSUER,
        ENDPOINTS,
        SET_TARGET,
        SET_LOCAL_NAME,
        DISABLE,
        ENABLE,
        LIMITS,
        Command(
            "list",
            "list the hybrid connections of a relay",
            "List the hybrid connections of a relay.",
            "example:\n  hybridrelay connections list --state /var/lib/hybridrelay\n",
            _add_list_arguments,
            run="connections:run_list",
        ),
        Command(
            "show",
            "show a hybrid connection, without its keys",
            "Show a hybrid connection: its rules, the fingerprints of their keys, and the relay's pin and ports.",
            "example:\n  hybridrelay connections show orders --state /var/lib/hybridrelay\n",
            _add_show_arguments,
            run="connections:run_show",
        ),
        Command(
            "delete",
            "delete a hybrid connection, and end everything that uses it",
            "Delete a hybrid connection. A running relay ends everything that belongs to it within a second.",
            "example:\n  hybridrelay connections delete orders --state /var/lib/hybridrelay\n",
            _add_delete_arguments,
            run="connections:run_delete",
        ),
    ),
)
