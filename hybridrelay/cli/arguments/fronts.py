"""The options for what the hybrid connections of a `forward` share: the fronts (SOCKS and HTTP proxies), and the name
server."""

from __future__ import annotations

import argparse

from . import values

FRONTS = """\
With --socks or --http-proxy, one local port (a front) serves all hybrid connections, under their local names. Nothing
else can be reached through it. For programs that can use a proxy, nothing has to be changed on the machine:
  curl --proxy socks5h://127.0.0.1:1080 http://intranet.corp.example/
The replies say whether a target refused the connection, is unreachable, or is denied by policy. If one of these
options is given, a hybrid connection has a local port of its own only if --listen says so. With --dns, the program
answers DNS queries for local names."""


def add_fronts(parser: argparse.ArgumentParser) -> None:
    """Add ``--socks``, ``--http-proxy``, ``--front-users-file`` and ``--dns``."""
    group = parser.add_argument_group("proxies and name server")
    group.add_argument(
        "--socks",
        metavar="ADDR:PORT|unix:PATH",
        type=values.front_address,
        action="append",
        default=[],
        help="serve SOCKS5 here, for local names (socks5h) only (may be repeated)",
    )
    group.add_argument(
        "--http-proxy",
        metavar="ADDR:PORT|unix:PATH",
        type=values.front_address,
        action="append",
        default=[],
        help="serve HTTP CONNECT here, for local names only (may be repeated)",
    )
    group.add_argument(
        "--front-users-file",
        metavar="F",
        type=values.path,
        help="a file with a line user:password for each user; --socks and --http-proxy then require one of these "
        "users to authenticate (default: no authentication)",
    )
    group.add_argument(
        "--dns",
        metavar="ADDR:PORT",
        type=values.address_with_port,
        action="append",
        default=[],
        help="answer DNS queries here (UDP and TCP) for local names: with the addresses on which this program "
        "listens for them, such as those of --listen own; other names are refused (may be repeated)",
    )
