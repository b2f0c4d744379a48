"""The arguments of ``hybridrelay status``, ``hybridrelay drop`` and ``hybridrelay drain``."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values
from .options import add_name, add_relay

_STATUS = """\
Show the current state of a running relay: first its problems, then its hybrid connections, the registered connectors,
the control channels of clients, and the sessions, with the number of bytes moved so far in each direction.

With --from, show the state of a connector or forward: its problems, its hybrid connections and relays, its sessions,
and its streams. A connector shows the label and the target of each stream, and a forward the address of the
application. A running 'hybridrelay run' is shown as a forward.

Problems of a relay, with the codes that --json shows:
  draining                   the relay is draining
  no-listener                a hybrid connection has no registered connector
  target-unhealthy           all connectors of a hybrid connection report that
                             they cannot reach its target, or that they refuse
                             new streams
  certificate-expires, certificate-expired
                             a certificate expires within three weeks, or has
                             expired
  certificate-not-renewed    the new file of a certificate cannot be used
  reload-failed              something in the configuration file could not be
                             used when it was last reloaded
  restart-needed             a change in this file takes effect only after a
                             restart
  quota-near, quota-reached  a quota is at least four fifths used, or used up
  pairs, control-channels, unauthenticated-slots
                             nine tenths of the places for pairs of data
                             channels, for control channels, or for
                             unauthenticated connections are taken
  claim-expires              a claim that was not taken expires soon
  key-not-kept               programs have the new key of a rule only in memory
  audit-failed               a sink of the audit log (--audit-dir, --audit-to)
                             cannot be written
  audit                      the files of the audit log of the management API
                             cannot be written
  registry                   the registry cannot be read, or its file was
                             replaced or deleted: nothing can be changed
  checkpoints, history, rendezvous, rolls, usage
                             this file cannot be written

Problems of a connector or forward:
  stopping                   the program is stopping
  not-registered             a hybrid connection is registered at no relay
  relay-failed               a hybrid connection is not registered at one of
                             its relays
  denied-by-policy           the policy denies a hybrid connection, its target
                             or its datagrams
  not-listening              a hybrid connection has no local port yet
  ports-left-out             some ports of a local name could not be opened,
                             or another program has its only one
  no-session                 there is no session for new connections
  target-unhealthy           the target cannot be reached
  identity-expires           an identity or issuer expires soon, or could not
                             be renewed
  reload-failed              a changed file cannot be used
  restart-needed             a change in the configuration file takes effect
                             only after a restart
  string-not-kept            a new key, an update or a renewed identity is only
                             in memory, and a restart would lose it
  update-not-used            an update of a connection string is not used
  audit-failed               a sink or witness of the audit log fails
  session-resuming           a session has lost its data channel and is
                             waiting to be resumed

The exit code is 0 if the program is running and has no problem, and 1 if there is a problem or it does not answer.
With --watch, the last state shown determines the exit code.
"""
_STATUS_EXAMPLES = """\
examples:
  hybridrelay status --state /var/lib/hybridrelay
  hybridrelay status --state /var/lib/hybridrelay --watch
  hybridrelay status --from /run/hybridrelay/connector.sock
  hybridrelay status --from 127.0.0.1:9351 --watch
  the instances of the registered connectors:
    hybridrelay status --state state --json | jq -r '.listeners[].instance'
"""
_DRAIN = """\
Drain a running relay, for example before its machine is restarted. The relay refuses new registrations and joins, so
that connectors and clients use another relay of the hybrid connection. Sessions continue. If a client's connection
string names another relay, the client moves its sessions there. 'hybridrelay status' shows how many sessions are
left.

With NAME and INSTANCE, drain only one connector of a hybrid connection, for example before it is updated. The relay
offers it no new sessions, and other connectors get them. Its sessions continue, and can resume. If no other connector
is registered, clients get the error 'no-listener'. With several relays, drain the connector at each of them.

The drain lasts until --undo, or until the relay is stopped. That of one connector also ends when the connector is
started again, because it is another instance then. Once no sessions are left, the relay or connector can be stopped
without interrupting anything.
"""
_DRAIN_EXAMPLES = """\
examples:
  hybridrelay drain --state /var/lib/hybridrelay
  hybridrelay drain --undo --state /var/lib/hybridrelay
  one connector:
    hybridrelay drain orders 5f0c8a1e9b7d4c3f2a1b0c9d8e7f6a5b --state state
"""


_DROP = """\
End a listener, a sender or a session at a running relay. No key is revoked, and nothing else ends. Name it by its
instance or id, which 'hybridrelay status' shows (for senders, 'hybridrelay status --json'):

  listener   the registration of a connector, by its instance; the connector
             registers again after 30 seconds, and its sessions continue
  sender     the control channel of a client, by its id; the client opens
             another one when it needs one, and its sessions continue
  session    the pair of data channels over which a session runs at the
             moment, by its id; the client resumes the session at once over
             another pair, if that is possible

To deny access permanently, revoke the key ('hybridrelay keys revoke').

The exit code is 0 if something was ended. It is 1 if there is nothing with this id (it may have ended before), or if
the relay does not answer. It is 2 if the relay does not know the hybrid connection.
"""
_DROP_EXAMPLES = """\
examples:
  hybridrelay drop listener orders 5f0c8a1e9b7d4c3f2a1b0c9d8e7f6a5b \\
      --state /var/lib/hybridrelay
"""


def _add_drop_arguments(parser: Parser) -> None:
    parser.add_argument("what", choices=("listener", "sender", "session"), help="what to end")
    add_name(parser)
    parser.add_argument("id", metavar="ID", help="the instance of the listener, or the id of the sender or session")
    add_relay(parser, has_to_run=True, role="operator")


def _add_status_arguments(parser: Parser) -> None:
    which = add_relay(parser, has_to_run=True, role="viewer")
    which.add_argument(
        "--from",
        dest="source",
        metavar="PATH|ADDR:PORT",
        type=values.status_address,
        help="instead of a relay, show the connector or forward whose option --status has this value",
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print JSON, for programs")
    shape.add_argument("--watch", action="store_true", help="show the state again every two seconds, until Ctrl-C")


def _add_drain_arguments(parser: Parser) -> None:
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        type=values.connection_name,
        help="drain one connector of this hybrid connection",
    )
    parser.add_argument("instance", metavar="INSTANCE", nargs="?", help="the instance of that connector")
    add_relay(parser, has_to_run=True, role="operator")
    parser.add_argument("--undo", action="store_true", help="end the drain")


STATUS = Command(
    "status",
    "show the state of a running relay, connector or forward, problems first",
    _STATUS,
    _STATUS_EXAMPLES,
    _add_status_arguments,
    run="status:run",
)
DROP = Command(
    "drop",
    "end a listener, a sender or a session of a running relay",
    _DROP,
    _DROP_EXAMPLES,
    _add_drop_arguments,
    run="status:run_drop",
)
DRAIN = Command(
    "drain",
    "drain a running relay, or one of its connectors, or undo that",
    _DRAIN,
    _DRAIN_EXAMPLES,
    _add_drain_arguments,
    run="status:run_drain",
)
