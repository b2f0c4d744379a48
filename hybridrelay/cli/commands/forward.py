"""``hybridrelay forward``."""

from __future__ import annotations

import argparse
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING

from ..._nursery import FlatNursery
from ...client import ClientConfig
from ...events.log import logged_events
from ...security import ConnectionString, Role
from .. import exits
from ..auditing import ProgramAudit, audited
from ..beginning import Beginning
from ..option_parts import OptionParts, audit_part, log_level_part, status_part
from ..running import GracefulStop, run_until_stopped
from ..serving.client_config import client_config
from ..serving.forward import ForwardService
from ..serving.fronts import Fronts
from ..serving.reloads import Reloads
from ..status_served import StatusServer

if TYPE_CHECKING:
    from ...monitoring import StatusSource


def run(args: argparse.Namespace) -> int:
    """Forward until a signal stops it."""
    beginning = Beginning.read(args, Role.APPLICATION)
    configuration, dialer, marks = beginning.configuration, beginning.dialer, beginning.marks
    front_options = configuration.fronts()
    stop = GracefulStop(args.grace)
    events = logged_events()
    audit = ProgramAudit(args)

    def make_config(string: ConnectionString) -> ClientConfig:
        return client_config(
            string, args, configuration, marks, dialer=dialer.dialer, audit=audit.log, reloads=reloads
        )

    def last_look() -> AbstractAsyncContextManager[None]:
        return reloads.last_look()

    service = ForwardService(make_config, events, stop, last_look=last_look)
    fronts = Fronts(service.find, service.find_addresses, service.use_fronts, events, stop.event)
    apply_with_fronts = partial(service.apply_with_fronts, fronts=fronts)

    def source() -> StatusSource:
        from ...monitoring import ClientsSource

        return ClientsSource(lambda: service.clients, role="forward", unapplied=reloads.unapplied)

    status = StatusServer(source, stop=stop.event, events=events)
    parts = OptionParts(args, [status_part(status), audit_part(audit), log_level_part()])
    reloads = Reloads(
        "forward", configuration, service, stop, dialer=dialer, parts=parts, apply_with_fronts=apply_with_fronts
    )

    async def main() -> None:
        async with (
            audited(audit, "forward", events),
            beginning.commands,
            status.serving(args.status),
            FlatNursery() as watching,
        ):
            watching.start_soon(reloads.watch)
            async with FlatNursery() as nursery:
                await nursery.start(service.run, beginning.wanted)
                await watching.start(fronts.run, front_options)
                await stop.say_ready("forward", service.fields)
            watching.cancel_scope.cancel()

    run_until_stopped(
        main, stop=stop, reloads=partial(args.reload_requests.serve, stop.unless_stopping(reloads.reload))
    )
    return exits.OK
