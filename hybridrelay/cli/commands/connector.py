"""``hybridrelay connector``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .. import exits, values
from ..config_file import add_config, use_config_file
from ..connection_strings import (
    WHERE_FROM,
    add_climb_seconds,
    add_files,
    add_grace,
    add_mode,
    add_resume_deadline,
    load_all,
    reload_each,
)
from ..parser import RELOADS, WHAT_IT_DOES, Subparsers, add_command
from ..proxy_options import add_proxy, make_dial
from ..reloading import add_reload, log_not_reloaded

if TYPE_CHECKING:
    from ...connector import InstanceFile
    from ...security import ConnectionString

_DESCRIPTION = f"""\
Run the connector, in the private network, where it can reach the target. It only dials out, to the relay, and
connects to the target that its own connection string names, for applications that prove their identity to it. One
process can publish several hybrid connections; several connectors with the same connection string are redundant.

{WHERE_FROM}

The log (standard error) records every stream: which application, which target, how much, and how it ended
(logger hybridrelay.audit). A relay that cannot be reached is tried again without end.

A connection string may name several relays: the connector registers at all of them, under the same instance id. It is
ready when each hybrid connection is registered at one relay or more; the log says what is missing. If a
relay refuses a connection string for a permanent reason, this combination is left out if there is something else to
serve; the ready line names what is served.

{RELOADS.format(what="the connection strings (key, relays, pins, target) and the deny list")}

{WHAT_IT_DOES}
"""
_EXAMPLES = """\
examples:
  hybridrelay connector --connection-string-file orders.connector
  two, with a deny list:
    hybridrelay connector --shut-out shut-out.txt \\
        --connection-string-file orders.connector billing.connector
  with a configuration file, whose keys are the options' names; the command
  line takes precedence, and paths are relative to the file:
    hybridrelay connector --config connector.toml

connector.toml:
  connection-string-file = ["orders.connector", "billing.connector"]
  shut-out = "shut-out.txt"
  grace = 10

shut-out.txt, the deny list; it is read again whenever it changes, and the
open sessions of the identities in it are closed:
  reporting            # a label: all identities with this label
  3F:A0:17:...         # a serial: only this identity
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    summary = "run the connector, in the private network"
    parser = add_command(subparsers, "connector", summary, _DESCRIPTION, _EXAMPLES)
    add_files(parser, means="connectors' connection strings")
    parser.add_argument(
        "--shut-out",
        metavar="FILE",
        type=values.path,
        help="a deny list: labels or serials of applications to be refused",
    )
    add_mode(parser)
    add_proxy(parser)
    add_grace(parser)
    add_resume_deadline(parser)
    parser.add_argument(
        "--instance-file",
        metavar="F",
        type=values.path,
        help="where to store which instance this connector is: if it is killed, its clients are reset as soon "
        "as it is "
        "back, instead of after their resume deadline; one file for each connector (default: a file in "
        "$STATE_DIRECTORY, $XDG_STATE_HOME/hybridrelay or ~/.local/state/hybridrelay, if it can be written; "
        "'none' switches it off)",
    )
    add_climb_seconds(parser)
    add_config(parser)
    add_reload(parser)
    parser.set_defaults(run=run, default_log_level="info")


def _instance_file(named: Path | None, strings: Sequence[ConnectionString]) -> InstanceFile | None:
    from ...connector import InstanceFile, default_instance_file, state_folder

    if named is not None:
        return None if named.name == "none" else InstanceFile(named)
    try:
        home: Path | None = Path.home()
    except RuntimeError:  # a user that the system does not know
        home = None
    folder = state_folder(os.environ, home)
    published = [(endpoint.host, string.entity_path) for string in strings for endpoint in string.endpoints]
    return None if folder is None else default_instance_file(folder, published)


def run(args: argparse.Namespace) -> int:
    """Publish until a signal stops it."""
    from ..._nursery import FlatNursery
    from ...connector import Connector, PolicyFile
    from ...errors import ConfigurationError
    from ...security import Role
    from ..running import GracefulStop, run_until_stopped

    use_config_file(args)
    dial = make_dial(args)
    strings = load_all(args.files, Role.CONNECTOR)
    policy_file = None if args.shut_out is None else PolicyFile(args.shut_out)
    instance_file = _instance_file(args.instance_file, strings)

    stop = GracefulStop(args.grace)

    connector = Connector(
        strings,
        mode=args.mode,
        dial=dial,
        policy_file=policy_file,
        resume_deadline=args.resume_deadline,
        instance_file=instance_file,
        climb_seconds=args.climb_seconds,
    )

    async def reload() -> None:
        await reload_each(args.files, Role.CONNECTOR, connector.update)
        if policy_file is not None:
            try:
                await connector.reload_policy()
            except ConfigurationError as exc:
                log_not_reloaded(exc)

    async def main() -> None:
        async with FlatNursery() as nursery:
            served = await nursery.start(partial(connector.run, stop=stop.event, grace=args.grace))
            await stop.say_ready("connector", [(string.entity_path, str(string.target)) for string in served])

    run_until_stopped(main, stop=stop, reloads=partial(args.reload_requests.serve, stop.unless_stopping(reload)))
    return exits.OK
