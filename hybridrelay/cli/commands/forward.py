"""``hybridrelay forward``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from .. import exits, values
from ..config_file import add_config, use_config_file
from ..connection_strings import (
    WHERE_FROM,
    add_climb_seconds,
    add_files,
    add_grace,
    add_mode,
    add_open_patience,
    add_resume_deadline,
    load_all,
    reload_each,
)
from ..parser import RELOADS, WHAT_IT_DOES, Subparsers, add_command
from ..proxy_options import add_proxy, make_dial
from ..reloading import add_reload

if TYPE_CHECKING:
    from ...client import Client
    from ...security import ConnectionString, StringUpdate

logger = logging.getLogger("hybridrelay.cli")

#: Any free port: nothing that is in use is ever in the way.
_ANYWHERE = ("127.0.0.1", 0)

_DESCRIPTION = f"""\
Run the client as local ports, beside the application, which connects to them as if they were the on-premises host.
Every connection becomes one stream to the target of the hybrid connection. If the tunnel or the target fails, the
application's connection is reset; it never sees a false end of file.

{WHERE_FROM}

A session that is lost is opened again, without end. A connection that is made while the relay or the connector is
away waits for a session for up to --open-patience seconds before it is reset; where waiting cannot help (a wrong
key, a target that refuses) it is reset at once. If the connection string names several relays, the first one that
works is used; when it is lost or about to stop, open connections continue over another. If the key of a connection
string was revoked at all of its relays, its port is closed, and with the last port the command ends (exit code 1).
The ready line names the ports that were opened.

{RELOADS.format(what="the connection strings (key, relays, pins)")}

{WHAT_IT_DOES}
"""
_EXAMPLES = """\
examples:
  hybridrelay forward --connection-string-file orders.application \\
      --listen 127.0.0.1:5432
  psql -h 127.0.0.1 -p 5432
  two; each --listen is for the file in the same position:
    hybridrelay forward \\
        --connection-string-file orders.application --listen 127.0.0.1:5432 \\
        --connection-string-file shop.application --listen [::1]:3306
  only over ports 443 and 80:
    hybridrelay forward --connection-string-file orders.application \\
        --mode websocket
  with a configuration file, whose keys are the options' names; the command
  line takes precedence, and paths are relative to the file:
    hybridrelay forward --config forward.toml

forward.toml:
  connection-string-file = ["orders.application", "shop.application"]
  listen = ["127.0.0.1:5432", "[::1]:3306"]
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers, "forward", "run the client: local ports that lead to the target", _DESCRIPTION, _EXAMPLES
    )
    add_files(parser, means="applications' connection strings")
    parser.add_argument(
        "--listen",
        metavar="ADDR:PORT",
        type=values.listen_address,
        action="append",
        default=[],
        help="the local port, one for each file; [::1]:5432 for IPv6; port 0: any free one (default: 127.0.0.1:0)",
    )
    add_mode(parser)
    add_proxy(parser)
    add_grace(parser)
    add_resume_deadline(parser)
    add_open_patience(parser)
    add_climb_seconds(parser)
    add_config(parser)
    add_reload(parser)
    parser.set_defaults(run=run, default_log_level="info")


def run(args: argparse.Namespace) -> int:
    """Forward until a signal stops it."""
    from ..._nursery import FlatNursery
    from ...errors import AuthorizationError, ConfigurationError
    from ...security import Role
    from ..running import GracefulStop, run_until_stopped

    use_config_file(args)
    dial = make_dial(args)
    strings = load_all(args.files, Role.APPLICATION)
    listen: Sequence[tuple[str, int]] = args.listen or [_ANYWHERE] * len(strings)
    if len(listen) != len(strings):
        raise ConfigurationError(
            f"{len(listen)} times --listen for {len(strings)} connection string{'s' if len(strings) > 1 else ''}",
            remedy="give one --listen for each --connection-string-file, or none at all",
        )
    for host, _ in listen:
        if not is_loopback(host):
            logger.warning("%s is not a loopback address: everybody who can reach it can connect to the target", host)

    stop = GracefulStop(args.grace)
    left = len(strings)

    clients: dict[int, Client] = {}

    async def forward(number: int, address: tuple[str, int], *, task_status: Started) -> None:
        nonlocal left
        try:
            await _forward(strings[number], address, args, dial, stop, clients, number, task_status=task_status)
        except AuthorizationError as exc:
            # The others go on; at the start, and with the last one, it ends us.
            left -= 1
            if not (left and stop.armed):
                raise
            logger.error("%s%s; its port is closed", exc, f"; {exc.remedy}" if exc.remedy else "")

    def use(number: int, string: ConnectionString) -> StringUpdate:
        if number not in clients:
            raise ConfigurationError("its port is closed", remedy="restart to open it again")
        return clients[number].update(string)

    async def main() -> None:
        bound: list[list[tuple[str, int]]] = [[] for _ in strings]
        async with FlatNursery() as nursery:
            async with FlatNursery() as starting:
                for number, (address, found) in enumerate(zip(listen, bound, strict=True)):
                    starting.start_soon(_start, nursery, partial(forward, number, address), found)
            fields = [
                (string.entity_path, ",".join(map(_format, found)))
                for string, found in zip(strings, bound, strict=True)
            ]
            await stop.say_ready("forward", fields)

    reload = partial(reload_each, args.files, Role.APPLICATION, use)
    run_until_stopped(main, stop=stop, reloads=partial(args.reload_requests.serve, stop.unless_stopping(reload)))
    return exits.OK


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to it."""
    from ...security.names import ip_address, normal_host

    address = ip_address(host)
    return normal_host(host) == "localhost" if address is None else address.is_loopback


if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import trio

    from ...abc import Dial
    from ..running import GracefulStop

    Started = trio.TaskStatus[list[tuple[str, int]]]


async def _start(
    nursery: trio.Nursery, forward: Callable[..., Awaitable[None]], found: list[tuple[str, int]]
) -> None:
    found += await nursery.start(forward)


async def _forward(
    string: ConnectionString,
    address: tuple[str, int],
    args: argparse.Namespace,
    dial: Dial | None,
    stop: GracefulStop,
    clients: dict[int, Client],
    number: int,
    *,
    task_status: Started,
) -> None:
    from ...client import open_client, run_forward

    options = {
        "resume_deadline": args.resume_deadline,
        "climb_seconds": args.climb_seconds,
        "open_patience": args.open_patience,
    }
    async with open_client(string, mode=args.mode, dial=dial, **options) as client:
        clients[number] = client
        try:
            await run_forward(client, [address], stop=stop.event, grace=stop.grace, task_status=task_status)
        finally:
            del clients[number]


def _format(address: tuple[str, int]) -> str:
    from ...connectivity import format_address

    return format_address(*address)
