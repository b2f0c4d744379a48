"""``hybridrelay hosts``: names in the hosts file."""

from __future__ import annotations

import argparse
import ipaddress
import sys
from collections.abc import Iterable, Sequence

from ..._datagram_address import DatagramAddress
from ..._name_ports import NamePorts
from ...client.names.hosts_block import HostsLine, lines_in, other_lines, with_lines
from ...client.names.hosts_file import apply_lines, default_hosts_file, read_hosts_file, remove_lines
from ...errors import ConfigurationError
from ...security import Role
from ...security.names import ip_address
from .. import exits, output
from ..arguments.forward import parse_forward
from ..entries import Listen, is_any_port
from ..serving.configuration import Configuration


def run_apply(args: argparse.Namespace) -> int:
    """Write the names into the hosts file."""
    path = args.hosts_file or default_hosts_file()
    lines = list(_wanted_lines(args))
    if not lines:
        raise ConfigurationError(
            "no hybrid connection has both a local name with a host name, and a fixed address and port",
            remedy="give it a local name with 'hybridrelay connections set-local-name', and let forward use --listen "
            "own; 'hosts remove' removes all names",
        )
    content = read_hosts_file(path)
    for number, name in other_lines(content, {line.name for line in lines}):
        output.say(f"note: line {number} of {path} already has {name}: programs may use the address there")
    changes = with_lines(content, lines) != content if args.dry_run else apply_lines(path, lines)
    output.say(output.table(("ADDRESS", "NAME"), [(line.address, line.name) for line in lines]))
    done = f"would change {path}" if args.dry_run else f"updated {path}"
    output.say(done if changes else f"{path} already has these names: nothing was changed")
    if sys.platform == "darwin":
        output.say("macOS has these addresses only after 'ifconfig lo0 alias ADDRESS' for each of them.")
    return exits.OK


def run_remove(args: argparse.Namespace) -> int:
    """Remove the names from the hosts file."""
    path = args.hosts_file or default_hosts_file()
    output.say(f"updated {path}" if remove_lines(path) else f"{path} has no such names: nothing was changed")
    return exits.OK


def run_show(args: argparse.Namespace) -> int:
    """Show the names in the hosts file."""
    path = args.hosts_file or default_hosts_file()
    lines = lines_in(read_hosts_file(path))
    if args.json:
        output.say_json([{"address": line.address, "name": line.name} for line in lines])
    elif not lines:
        output.say(f"{path} has no names of hybrid connections: see hybridrelay hosts apply --help")
    else:
        output.say(output.table(("ADDRESS", "NAME"), [(line.address, line.name) for line in lines]))
    return exits.OK


def _wanted_lines(args: argparse.Namespace) -> Iterable[HostsLine]:
    """Return a line for each name and address, in the order of the configuration."""
    # The same options as for `forward`, so that the same configuration means the same addresses.
    options = [] if args.config is None else ["--config", str(args.config)]
    if args.config is None:
        options = ["--listen", "own"]
    if args.files:
        options += ["--connection-string-file", *args.files]
    configuration = Configuration(parse_forward(options), Role.APPLICATION)
    found: dict[HostsLine, None] = {}
    for one in configuration.load():
        assert one.string is not None
        name = one.string.local_name
        if name is not None and ip_address(name.host) is None:
            for address in _addresses(one.entry.listen):
                found[HostsLine(address, name.host)] = None
    return found


def _addresses(listen: Sequence[Listen]) -> Iterable[str]:
    for one in listen:
        if isinstance(one, NamePorts) or (isinstance(one, tuple | DatagramAddress) and not is_any_port(one)):
            host = one[0] if isinstance(one, tuple) else one.host
            host = "127.0.0.1" if host == "localhost" else host
            address = ip_address(host)
            if address is not None:
                local = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
                yield str(local if address.is_unspecified else address)
