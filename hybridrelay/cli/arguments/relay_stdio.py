"""The arguments of ``hybridrelay relay-stdio``."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from .options import add_state

_DESCRIPTION = """\
Connect standard input and output to the relay that runs on this machine, through the Unix socket in its state
directory. Connectors and clients in mode exec start this command on the relay's host, usually through ssh. Nothing
but the bytes of the channel is written to standard output. It ends when either side ends.

It has to run as the same user as the relay, because the socket is for this user alone.
"""
_EXAMPLES = """\
examples:
  on the machine of the connector or the client:
    hybridrelay connector --connection-string-file orders.connector \\
        --mode exec --exec-command \\
        'ssh relay.example.com hybridrelay relay-stdio --state DIR'
  in ~/.ssh/authorized_keys of the relay's user, in one line, for a key that
  can do nothing else:
    restrict,command="hybridrelay relay-stdio --state /var/lib/hybridrelay"
    ssh-ed25519 AAAA...
"""


def _add_arguments(parser: Parser) -> None:
    add_state(parser)


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
