"""``hybridrelay forward``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from itertools import starmap
from typing import TYPE_CHECKING

import trio

from ..._nursery import FlatNursery
from ...client import Client, ClientConfig, open_client, run_forward
from ...connectivity import format_address
from ...errors import AuthorizationError, ConfigurationError
from ...events.client import ForwardPortClosed
from ...events.log import logged_events
from ...security import ConnectionString, Role, StringUpdate
from .. import exits
from ..config_file import use_config_file
from ..connection_strings import load_all, reload_each
from ..proxies import make_commands, make_dialer
from ..running import GracefulStop, run_until_stopped
from ..status_served import status_served

if TYPE_CHECKING:
    from ...monitoring import StatusSource

#: The default of ``--listen``: any free port.
_ANYWHERE = ("127.0.0.1", 0)

Started = trio.TaskStatus[list[tuple[str, int]]]


def run(args: argparse.Namespace) -> int:
    """Forward until a signal stops it."""
    use_config_file(args)
    commands = make_commands(args)
    dialer = make_dialer(args, commands)
    if args.claim_file is not None:
        from ..claim_taking import take_at_first_start  # imported here, because it is rarely needed

        take_at_first_start(args)
    strings = load_all(args.files, Role.APPLICATION)
    listen: Sequence[tuple[str, int]] = args.listen or [_ANYWHERE] * len(strings)
    if len(listen) != len(strings):
        raise ConfigurationError(
            f"{len(listen)} times --listen for {len(strings)} connection string{'s' if len(strings) > 1 else ''}",
            remedy="give one --listen for each --connection-string-file, or none at all",
        )
    stop = GracefulStop(args.grace)
    left = len(strings)
    events = logged_events()
    clients: dict[int, Client] = {}

    async def serve(number: int, *, task_status: Started) -> None:
        config = ClientConfig(
            strings[number],
            mode=args.mode,
            dialer=dialer,
            resume_deadline=args.resume_deadline,
            upgrade_interval=args.upgrade_interval,
            open_patience=args.open_patience,
        )
        async with open_client(config, events=events) as client:
            clients[number] = client
            try:
                await run_forward(
                    client, [listen[number]], stop=stop.event, grace=stop.grace, task_status=task_status
                )
            finally:
                del clients[number]

    async def forward(number: int, *, task_status: Started) -> None:
        nonlocal left
        try:
            await serve(number, task_status=task_status)
        except AuthorizationError as exc:
            # The others continue; at the start, or if this was the last one, the program ends.
            left -= 1
            if not (left and stop.armed):
                raise
            name = strings[number].entity_path
            events.publish(
                ForwardPortClosed(connection=name, reason=exc.reason, detail=str(exc), remedy=exc.remedy or "")
            )

    def use(number: int, string: ConnectionString) -> StringUpdate:
        if number not in clients:
            raise ConfigurationError("its local port is closed", remedy="restart to open it again")
        return clients[number].update(string)

    def source() -> StatusSource:
        from ...monitoring import ClientsSource

        return ClientsSource(clients.values, role="forward")

    async def main() -> None:
        bound: dict[int, list[tuple[str, int]]] = {}

        async def start(number: int) -> None:
            bound[number] = await nursery.start(forward, number)

        async with commands, status_served(args.status, source, stop=stop.event, events=events):
            async with FlatNursery() as nursery:
                async with FlatNursery() as starting:
                    for number in range(len(strings)):
                        starting.start_soon(start, number)
                fields = [
                    (string.entity_path, ",".join(starmap(format_address, bound[number])))
                    for number, string in enumerate(strings)
                ]
                await stop.say_ready("forward", fields)

    reload = partial(reload_each, args.files, Role.APPLICATION, use)
    run_until_stopped(main, stop=stop, reloads=partial(args.reload_requests.serve, stop.unless_stopping(reload)))
    return exits.OK
