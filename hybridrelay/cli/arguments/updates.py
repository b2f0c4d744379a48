"""The arguments of ``hybridrelay updates`` and its subcommands."""

from __future__ import annotations

import argparse

from ..command import Command
from ..parsing import Parser
from . import values
from .options import add_endpoint, add_name, add_relay

_DESCRIPTION = """\
Change the relays, their pins, and the target in connection strings that are in use, without touching the machines
that have them. The authority signs an update. The relay gives it to connectors and clients over their control
channels; it can neither read nor change it. They verify it, write it into their files, and use it without a restart.
"""
_PUSH = """\
Sign an update with the authority file, and leave it at the relay. Programs that are connected get it within seconds,
and others when they connect. The new values are also written into the authority file, so that connection strings that
are issued later have them.

Relays and pins go to connectors and applications, unless --role names one side, and the target goes to connectors.
With --serial, the update is only for the identity with this serial number, and takes precedence over those for its
side. If no change is given, the updates that were pushed before are pushed again.

An update cannot cut a program off: if the program reaches none of the relays in the update within 30 seconds, it
keeps the earlier ones, and tries again later; 'updates list' shows this. The policy of its machine may refuse an
update.

With several relays, run the command for each of them: for the first one with the changes, and for the others without.
To replace a relay, push a list with both, wait until 'updates list' shows that all programs have it, and then push
the list without the old one. To add a relay, first import the hybrid connection there (see 'connections endpoints').
"""
_PUSH_EXAMPLES = """\
examples:
  another target:
    hybridrelay updates push orders --target db2.internal:5432 \\
      --authority-file orders.authority --state /var/lib/hybridrelay
  add the relay b.example.com:
    hybridrelay updates push orders \\
      --endpoint a.example.com --relay-pin sha256:... \\
      --endpoint b.example.com --relay-pin sha256:... \\
      --authority-file orders.authority \\
      --management https://a.example.com:9180 --token-file admin.token
  the same update at the other relay:
    hybridrelay updates push orders --authority-file orders.authority \\
      --management https://b.example.com:9180 --token-file admin.token
"""
_LIST = """\
List the updates that the relay has for a hybrid connection, and the programs that do not have them.

  asked     the program has not answered
  memory    the program uses the update, but can write neither its connection
            string file nor a copy, and gets the update again after a restart
  waiting   the program does not use the update yet: none of the relays in the
            update accepts it, or --not-before has not passed yet. It tries
            again.
  refused   the program does not use the update: it cannot verify the update,
            or the policy of its machine does not allow it
"""
_SHOW = """\
Show what was pushed with an authority file: the relays, pins and target in the updates, and for whom they are. No
relay is needed for this.
"""


def _add_authority(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--authority-file", metavar="F", type=values.path, required=True, help="the authority file, which signs"
    )


def _add_push_arguments(parser: Parser) -> None:
    add_name(parser)
    _add_authority(parser)
    add_endpoint(parser, means="a relay's host name or address; name all of them, in order", required=False)
    parser.add_argument(
        "--relay-pin", metavar="PIN", type=values.pin, action="append", help="the pins of all relays; repeat it"
    )
    parser.add_argument(
        "--public-ports",
        metavar="PORTS",
        type=values.public_ports,
        action="append",
        help="as for 'connections create' (default: relays that the authority file names keep their ports)",
    )
    parser.add_argument(
        "--target",
        metavar="HOST:PORTS",
        type=values.target,
        help="what connectors connect to, in the forms of 'connections set-target'",
    )
    parser.add_argument(
        "--role", choices=("connector", "application"), help="update only this side (default: both, if possible)"
    )
    parser.add_argument(
        "--serial",
        metavar="HEX",
        type=values.serial,
        help="only for the identity with this serial number, which logs and audit log show; needs --role",
    )
    parser.add_argument(
        "--expires",
        metavar="TIME",
        type=values.update_lifetime,
        default=90 * 86_400.0,
        help="how long the relay may deliver it, such as 12h or 30d; at most 400d (default: 90d)",
    )
    parser.add_argument(
        "--not-before",
        metavar="TIME",
        type=values.update_lifetime,
        default=0.0,
        help="programs do not use the update before this much time has passed, such as 2h (default: they use it at "
        "once)",
    )
    add_relay(parser)


def _add_list_arguments(parser: Parser) -> None:
    add_name(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_relay(parser, role="viewer")


def _add_show_arguments(parser: Parser) -> None:
    add_name(parser)
    _add_authority(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


COMMAND = Command(
    "updates",
    "change relays, pins and targets of running programs: push, list or show updates",
    _DESCRIPTION,
    "each command has its own --help:\n  hybridrelay updates push --help\n",
    subcommands=(
        Command(
            "push",
            "sign an update of connection strings, and leave it at the relay",
            _PUSH,
            _PUSH_EXAMPLES,
            _add_push_arguments,
            run="updates:run_push",
        ),
        Command(
            "list",
            "list the updates at the relay, and who does not have them",
            _LIST,
            "example:\n  hybridrelay updates list orders --state /var/lib/hybridrelay\n",
            _add_list_arguments,
            run="updates:run_list",
        ),
        Command(
            "show",
            "show what was pushed with an authority file",
            _SHOW,
            "example:\n  hybridrelay updates show orders --authority-file orders.authority\n",
            _add_show_arguments,
            run="updates:run_show",
        ),
    ),
)
