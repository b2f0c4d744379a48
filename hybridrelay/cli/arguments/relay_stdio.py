"""The arguments of ``hybridrelay relay-stdio``."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values

_DESCRIPTION = """\
Connect standard input and output to the relay that runs on this machine, through the Unix socket in its state
directory. Connectors and clients in mode exec start this command on the relay's host, usually through ssh. Only the
bytes of the channel are written to standard output. The command ends when either side ends.

It has to run as the relay's user or as root: nobody else may use the socket.
"""
_EXAMPLES = """\
examples:
  on the machine of the connector or the client:
    hybridrelay connector --connection-string-file orders.connector \\
        --mode exec --exec-command \\
        'ssh relay.example.com hybridrelay relay-stdio --state DIR'
  in ~/.ssh/authorized_keys of the relay's user, on one line, for an SSH key
  that is allowed nothing else:
    restrict,command="hybridrelay relay-stdio --state /var/lib/hybridrelay"
    ssh-ed25519 AAAA...
"""


def _add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--state",
        metavar="DIR",
        type=values.path,
        required=True,
        help="the state directory of the relay, which has to be running",
    )


COMMAND = Command(
    "relay-stdio",
    "connect standard input and output to the relay on this machine",
    _DESCRIPTION,
    _EXAMPLES,
    _add_arguments,
    run="relay_stdio:run",
    log_level="warning",
    is_service=False,
)
