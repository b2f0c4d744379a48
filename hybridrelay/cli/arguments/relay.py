"""The arguments of ``hybridrelay relay``."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values
from .audit_options import add_audit
from .options import RELOADS, WHAT_IT_DOES, MergePorts, add_config

_RELOADED_FILES = "the files of --tls-certificate, --management-tls-certificate and --management-client-ca"

_DESCRIPTION = f"""\
Run the relay, on a host that both sides can reach. It authenticates connectors and clients, pairs them, and moves
their bytes. It cannot read them, because they are encrypted end to end.

Ports (--ports changes them; a port that is 'off' is not opened):
  probe 9350, control 5671, data 9352   native TCP; if one of them is off,
                                        native TCP is never chosen
  http 80, https 443                    WebSocket, for networks that allow
                                        nothing else

The state directory contains the registry (hybrid connections and their keys) and the relay's own certificate, which
are created at the first start. Use 'hybridrelay connections' to add hybrid connections; the relay may be running.

When it is ready, the relay prints a line (the ready line), which ends with its pin, by which client and connector
recognize the relay. 'connections create' reads the pin from the state directory, or takes it from --relay-pin.

{RELOADS.format(what=_RELOADED_FILES, unless="")}
The relay notices a renewed certificate within half a minute. At SIGHUP, the relay also uses what has changed in
the file of --config: where it listens, its certificate, public-ports, websocket-path-prefix, proxy-protocol-from,
trusted-proxies, client-addresses, the management API, the audit log (--audit-...) and log-level. The log names other
settings that have changed, because they need a restart.

{WHAT_IT_DOES}
"""
_EXAMPLES = """\
examples:
  hybridrelay relay --state /var/lib/hybridrelay
  behind nginx or a CDN that serves 443 and passes /hybridrelay on to 8080:
    hybridrelay relay --state state --ports https=off,http=127.0.0.1:8080 \\
        --public-ports http=off,https=443
  no native TCP, only WebSocket:
    hybridrelay relay --state state --ports probe=off,control=off,data=off
  with the management API over TCP as well, for callers with a token:
    hybridrelay relay --state state --management 127.0.0.1:9180

  with a configuration file, whose keys are the options' names; the command
  line takes precedence, and paths are relative to the file:
    hybridrelay relay --config relay.toml

relay.toml:
  state = "/var/lib/hybridrelay"
  host = ["203.0.113.7", "2001:db8::7"]
  tls-certificate = "fullchain.pem"
  tls-key = "privkey.pem"
  max-pairs-per-connection = 500
  [ports]
  probe = 9350
  http = "127.0.0.1:8080"
  https = "off"
"""


def _add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--state",
        metavar="DIR",
        type=values.path,
        help="the state directory, created if it does not exist; back it up: it has the keys and the certificate",
    )
    parser.add_argument(
        "--host",
        metavar="ADDR",
        type=values.host,
        action="append",
        help="address to listen on, unless --ports says otherwise; may be repeated (default: all)",
    )
    parser.add_argument(
        "--ports",
        metavar="PORTS",
        type=values.ports,
        action=MergePorts,
        help="the ports to open, such as probe=9350,http=127.0.0.1:8080,https=[::1]:8443,data=off; 0: any free port; "
        "may be repeated, and for each port the last one counts; other ports are as in --config, or the default",
    )
    parser.add_argument(
        "--public-ports",
        metavar="PORTS",
        type=values.public_ports,
        action=MergePorts,
        help="the ports to write into connection strings, if they differ from --ports because of a reverse proxy or "
        "a NAT in front of the relay; may be repeated, and is merged with --config like --ports",
    )
    parser.add_argument(
        "--tls-certificate",
        metavar="F",
        type=values.path,
        help="a PEM file with the certificate for https, from a public CA, because intercepting proxies reject "
        "others (default: self-signed)",
    )
    parser.add_argument(
        "--tls-key", metavar="F", type=values.path, help="a PEM file with the key, if it is not in --tls-certificate"
    )
    parser.add_argument(
        "--max-pairs",
        metavar="N",
        type=values.count,
        help="the maximum number of pairs of data channels at a time (default: about one for every four descriptors, "
        "at most 32768)",
    )
    parser.add_argument(
        "--max-pairs-per-connection",
        metavar="N",
        type=values.count,
        help="the maximum for one hybrid connection (default: two thirds of --max-pairs if no other pairs exist, "
        "otherwise less)",
    )
    parser.add_argument(
        "--max-pairs-per-key",
        metavar="N",
        type=values.count,
        help="the maximum for one key with the right Send (default: half of --max-pairs if no other pairs exist, "
        "otherwise less)",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=values.count_or_zero,
        help="the number of processes that move the bytes of native TCP (Linux only; default: one for each processor "
        "core beyond the first, at most 8; 0: the main process moves them); WebSocket stays in the main process",
    )
    parser.add_argument(
        "--keep-pairs",
        metavar="SECONDS",
        type=values.seconds(0, 3600),
        default=60.0,
        help="how long the processes of --workers keep their sessions after the main process has stopped or was "
        "killed, until a relay is started again with the same --state; a second signal resets their connections at "
        "once (default: %(default)g; 0: connections are reset when the main process ends, and sessions resume later)",
    )
    parser.add_argument(
        "--proxy-protocol-from",
        metavar="NETWORKS",
        type=values.networks,
        help="addresses of proxies in front of the relay, such as 10.0.0.5,10.1.0.0/16: connections from them, on "
        "all ports, have to begin with a PROXY header (version 1 or 2), which says where they come from",
    )
    parser.add_argument(
        "--websocket-path-prefix",
        metavar="PATH",
        type=values.path_prefix,
        help="also serve WebSocket below this path, for a reverse proxy or CDN that does not strip it from requests: "
        "/edge/relay for /edge/relay/hybridrelay",
    )
    parser.add_argument(
        "--trusted-proxies",
        metavar="NETWORKS",
        type=values.networks,
        help="addresses of reverse proxies in front of http, https or --management, which say in X-Forwarded-For or "
        "Forwarded where a request comes from; these headers are ignored in requests from other addresses",
    )
    parser.add_argument(
        "--client-addresses",
        choices=("exact", "network", "none"),
        default="exact",
        help="what connectors are told about the address of a client, for their audit logs and PROXY headers: the "
        "whole address, only its network (IPv4: /24, IPv6: /64), or nothing (default: %(default)s)",
    )
    parser.add_argument(
        "--max-history-mib",
        metavar="N",
        type=values.count_or_zero,
        default=1024,
        help="the maximum size of the history in the state directory, from which charts are drawn (default: "
        "%(default)s MiB; 0: only the last hour is kept, in memory)",
    )
    parser.add_argument(
        "--management",
        metavar="ADDR:PORT",
        type=values.listen_address,
        action="append",
        help="serve the management API here as well as on the socket in the state directory; callers need a token "
        "(hybridrelay tokens create); may be repeated; port 0: any free port, which the log shows",
    )
    parser.add_argument(
        "--management-tls-certificate",
        metavar="F",
        type=values.path,
        help="a PEM file with the certificate for --management; needed for addresses other than loopback; reloaded "
        "like that of --tls-certificate",
    )
    parser.add_argument(
        "--management-tls-key",
        metavar="F",
        type=values.path,
        help="a PEM file with the key, if it is not in --management-tls-certificate",
    )
    parser.add_argument(
        "--management-client-ca",
        metavar="F",
        type=values.path,
        help="a PEM file with a CA that issues certificates only to callers of the management API; the OU of the "
        "subject is the role: viewer, operator or admin",
    )
    parser.add_argument(
        "--management-host",
        metavar="NAME",
        type=values.endpoint,
        action="append",
        help="a name by which callers reach the management API, besides those in its certificate; may be repeated",
    )
    add_audit(parser)
    add_config(parser)


COMMAND = Command(
    "relay",
    "run the relay, on a public host",
    _DESCRIPTION,
    _EXAMPLES,
    _add_arguments,
    run="relay:run",
    log_level="info",
    is_service=True,
)
