"""``hybridrelay relay``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from .. import exits, values
from ..config_file import add_config, use_config_file
from ..parser import RELOADS, WHAT_IT_DOES, Subparsers, add_command
from ..reloading import add_reload, log_not_reloaded
from ..shared_options import MergePorts

if TYPE_CHECKING:
    from ...relay import Binding, RelayConfig

logger = logging.getLogger("hybridrelay.cli")

_DESCRIPTION = f"""\
Run the relay, on a host that both sides can reach. It authenticates connectors and clients, pairs them, and moves
their bytes, which are encrypted end to end: it can read none of them.

Ports (--ports changes them; 'off' is not opened):
  probe 9350, control 5671, data 9352   native TCP; if one of them is off,
                                        native TCP is never chosen
  http 80, https 443                    WebSocket, for networks that allow
                                        nothing else

The state directory holds the registry (hybrid connections and their keys) and the relay's own certificate, both made
at the first start. Hybrid connections are added with 'hybridrelay connections', also while the relay runs.

The ready line ends with the relay's pin, by which client and connector recognize it. 'connections create' reads the
pin from the state directory, or takes it from --relay-pin.

{RELOADS.format(what="the certificate of --tls-certificate and --tls-key")}
A renewed certificate is also noticed without a signal, within half a minute.

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

configuration file (--config): the same names; the command line takes
precedence; paths are relative to the file:
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


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(subparsers, "relay", "run the relay, on a public host", _DESCRIPTION, _EXAMPLES)
    parser.add_argument(
        "--state",
        metavar="DIR",
        type=values.path,
        help="the state directory, created if it does not exist; back it up: it holds the keys and the certificate",
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
        "may be repeated, and for each port the last one counts",
    )
    parser.add_argument(
        "--public-ports",
        metavar="PORTS",
        type=values.public_ports,
        action=MergePorts,
        help="the ports that connection strings carry, if something in front of the relay uses other ones; may be "
        "repeated, too",
    )
    parser.add_argument(
        "--tls-certificate",
        metavar="F",
        type=values.path,
        help="PEM, for https; from a public CA, because proxies that intercept TLS require one (default: self-made)",
    )
    parser.add_argument("--tls-key", metavar="F", type=values.path, help="PEM, if the key is not in that file")
    parser.add_argument(
        "--max-pairs",
        metavar="N",
        type=values.count,
        help="the most pairs of data channels at a time (default: about one for four descriptors, at most 32768)",
    )
    parser.add_argument(
        "--max-pairs-per-connection",
        metavar="N",
        type=values.count,
        help="the most of them for one hybrid connection (default: two thirds when it is alone, less beside others)",
    )
    parser.add_argument(
        "--max-pairs-per-key",
        metavar="N",
        type=values.count,
        help="the most of them for one key with the right Send (default: half when it is alone, less beside others)",
    )
    add_config(parser)
    add_reload(parser)
    parser.set_defaults(run=run, default_log_level="info")


def run(args: argparse.Namespace) -> int:
    """Run the relay until a signal stops it."""
    from ..._nursery import FlatNursery
    from ...errors import ConfigurationError
    from ...relay import DRAIN_SECONDS, Relay
    from ..running import GracefulStop, run_until_stopped

    use_config_file(args)
    relay = Relay(make_config(args))
    stop = GracefulStop(DRAIN_SECONDS)

    async def reload() -> None:
        if args.tls_certificate is None:
            logger.info("SIGHUP: there is no --tls-certificate to reload; changes of the registry need no signal")
        else:
            try:
                await relay.reload_certificates()
            except ConfigurationError as exc:
                log_not_reloaded(exc)

    async def main() -> None:
        async with FlatNursery() as nursery:
            info = await nursery.start(partial(relay.run, stop=stop.event))
            fields = [(name, ",".join(map(str, bindings))) for name, bindings in info.bound.items() if bindings]
            await stop.say_ready("relay", [*fields, ("pin", info.pin)])

    run_until_stopped(main, stop=stop, reloads=partial(args.reload_requests.serve, stop.unless_stopping(reload)))
    return exits.OK


def make_config(args: argparse.Namespace) -> RelayConfig:
    """What the options mean.

    Raises:
        ConfigurationError: one is missing, or needs another.
    """
    from ...errors import ConfigurationError
    from ...relay import RelayConfig

    if args.state is None:
        raise ConfigurationError("no state directory was given", remedy="relay --state DIR, or state in --config")
    if args.tls_key is not None and args.tls_certificate is None:
        raise ConfigurationError("--tls-key needs --tls-certificate", remedy="give both, or neither")
    return RelayConfig(
        state_dir=args.state,
        bindings=make_bindings(args.host or [""], args.ports or {}),
        public_ports=args.public_ports or {},
        tls_certificate=args.tls_certificate,
        tls_key=args.tls_key,
        max_pairs=args.max_pairs,
        max_pairs_per_connection=args.max_pairs_per_connection,
        max_pairs_per_key=args.max_pairs_per_key,
    )


def make_bindings(hosts: Sequence[str], ports: Mapping[str, values.PortOption]) -> Mapping[str, tuple[Binding, ...]]:
    """Where to listen: what `ports` says, and for all other ports of the installed transports the defaults.

    Args:
        hosts: for ports whose entry names no address.
        ports: from ``--ports``.
    """
    from ...connectivity import all_ports, discover
    from ...relay import Binding

    known = all_ports(discover())
    options: dict[str, values.PortOption] = {name: (None, port.default) for name, port in known.items()}
    bindings = {}
    for name, option in {**options, **ports}.items():
        if option is None:
            continue
        address, number = option
        bindings[name] = tuple(Binding(host, number) for host in (hosts if address is None else [address]))
    return bindings
