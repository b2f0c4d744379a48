"""The arguments of ``hybridrelay policy`` and its subcommands."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values
from .options import add_policy_dir

_POLICY = """\
Show and check the policy: what the administrators of this network allow on this machine.

The policy is in files in /etc/hybridrelay/policy.d (on Windows in the registry, on macOS also in the managed
preferences). It applies to every connector, forward and run on the machine, and no argument switches it off. If there
are several files, only what all of them allow is allowed. docs/policy.md describes it.
"""
_SHOW = """\
Show the policy that is in force on this machine: each rule, and the file and line in which it is written. If a file
cannot be used, the command says why (exit code 2). No connector, forward or run starts then.
"""
_CHECK = """\
Say whether the policy of this machine allows an application to reach a target, and which rule decides (exit code 0:
allowed; 3: denied). As in a connector, the name of the target is resolved, and each of its addresses is checked.

With --connection-string-file, the relays and the authority of this connection string are checked, too, and shown. For
a connector's connection string, its target is checked if no other one is given.
"""
_TEMPLATE = """\
Print a template of a policy: a policy file in which every key is explained (toml), the definitions of Group Policy
and their English texts (admx, adml), or a configuration profile for macOS with an example of every key
(mobileconfig).
"""


def _add_show_arguments(parser: Parser) -> None:
    add_policy_dir(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _add_check_arguments(parser: Parser) -> None:
    parser.add_argument(
        "target",
        metavar="TARGET",
        nargs="?",
        type=values.target,
        help="host:port, or several ports and ranges (ftp.corp:21,50000-50100), followed by /udp or /tcp+udp for "
        "datagrams; or host\\instance; or unix:/path",
    )
    parser.add_argument("--label", metavar="L", type=values.label, help="the label of the application")
    parser.add_argument("--serial", metavar="HEX", default="", help="the serial of the application's identity")
    parser.add_argument(
        "--connection-string-file", metavar="F", type=values.path_or_stdin, help="check this connection string, too"
    )
    add_policy_dir(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _add_template_arguments(parser: Parser) -> None:
    parser.add_argument("format", choices=("toml", "admx", "adml", "mobileconfig"), help="the format")


COMMAND = Command(
    "policy",
    "show and check what the administrators of this network allow",
    _POLICY,
    """\
examples:
  hybridrelay policy template toml > /etc/hybridrelay/policy.d/10-local.toml
  hybridrelay policy show
  hybridrelay policy check sql01.corp.example:1433 --label billing
""",
    subcommands=(
        Command(
            "show",
            "show the policy that is in force",
            _SHOW,
            "examples:\n  hybridrelay policy show\n  hybridrelay policy show --policy-dir policy --json\n",
            _add_show_arguments,
            run="policy:run_show",
        ),
        Command(
            "check",
            "say whether a target may be reached",
            _CHECK,
            """\
examples:
  hybridrelay policy check sql01.corp.example:1433 --label billing
  hybridrelay policy check --connection-string-file orders.connector
""",
            _add_check_arguments,
            run="policy:run_check",
        ),
        Command(
            "template",
            "print a template of a policy",
            _TEMPLATE,
            """\
examples:
  hybridrelay policy template toml > /etc/hybridrelay/policy.d/10-local.toml
  hybridrelay policy template admx > hybridrelay.admx
  hybridrelay policy template adml > en-US/hybridrelay.adml
""",
            _add_template_arguments,
            run="policy:run_template",
        ),
    ),
)
