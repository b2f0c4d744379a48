"""``hybridrelay connector``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..._file_thread import thread_of_file
from ..._nursery import FlatNursery
from ..._state_directory import own_state_directory
from ...connector import (
    Connector,
    ConnectorConfig,
    InstanceFile,
    Policy,
    PolicyFile,
    default_instance_file,
)
from ...errors import ConfigurationError
from ...events.log import logged_events
from ...events.stream import EventStream
from ...security import ConnectionString, Role
from .. import exits
from ..auditing import ProgramAudit, audited
from ..beginning import Beginning
from ..key_keeping import keeper_of
from ..option_parts import OptionParts, Part, audit_part, log_level_part, status_part
from ..reloading import publish_not_reloaded
from ..running import GracefulStop, run_until_stopped
from ..serving.connector import ConnectorService
from ..serving.reloads import Reloads
from ..status_served import StatusServer

if TYPE_CHECKING:
    from ...monitoring import StatusSource


def _instance_file(
    named: Path | None, config: Path | None, strings: Sequence[ConnectionString], events: EventStream
) -> InstanceFile | None:
    """Return the instance file; None if there is none. With a configuration file, what is published may change while
    the program runs. The name of the default file then depends on the path of the configuration file instead."""
    if named is not None:
        return None if named.name == "none" else InstanceFile(named, events=events)
    directory = own_state_directory()
    published = [(endpoint.host, string.entity_path) for string in strings for endpoint in string.endpoints]
    if config is not None:
        published = [("", str(config.absolute()))]
    return None if directory is None else default_instance_file(directory, published, events=events)


def _used_claims(named: Path | None) -> Path | None:
    if named is not None:
        return None if named.name == "none" else named
    directory = own_state_directory()
    return None if directory is None else directory / "used-claims.json"


def run(args: argparse.Namespace) -> int:
    """Run the connector until a signal stops it."""
    beginning = Beginning.read(args, Role.CONNECTOR)
    configuration, dialer, marks = beginning.configuration, beginning.dialer, beginning.marks
    strings = [one.string for one in beginning.wanted if one.string is not None]
    events = logged_events()
    if args.check_target and args.status is None:
        raise ConfigurationError("--check-target needs --status", remedy="give --status PATH or --status ADDR:PORT")
    audit = ProgramAudit(args)
    config = ConnectorConfig(
        strings,
        mode=args.mode,
        dialer=dialer.dialer,
        policy=Policy() if args.deny_list is None else PolicyFile(args.deny_list),
        policy_directories=args.policy_dirs,
        resume_deadline=args.resume_deadline,
        upgrade_interval=args.upgrade_interval,
        check_target_interval=args.check_target_interval,
        keep_string=keeper_of(configuration.files, marks, configuration.copies),
        update_floor=marks.floor,
        instance_file=_instance_file(args.instance_file, configuration.file, strings, events),
        audit=audit.log,
        used_claims=_used_claims(args.used_claims),
    )

    def last_look() -> AbstractAsyncContextManager[None]:
        return reloads.last_look()

    connector = Connector(config, events=events, last_look=last_look)
    stop = GracefulStop(args.grace)

    def source() -> StatusSource:
        from ...monitoring import ConnectorSource

        return ConnectorSource(connector, check_targets=args.check_target, unapplied=reloads.unapplied)

    status = StatusServer(source, stop=stop.event, events=events)

    async def use_deny_list(changed: argparse.Namespace) -> None:
        file = changed.deny_list
        deny_list = None if file is None else await thread_of_file(file).run(PolicyFile, file)
        connector.use_deny_list(None, deny_list)

    service = ConnectorService(connector, beginning.wanted, grace=args.grace)
    deny_list_part = Part(frozenset({"deny_list"}), use_deny_list)
    parts = OptionParts(args, [deny_list_part, status_part(status), audit_part(audit), log_level_part()])
    reloads = Reloads("connector", configuration, service, stop, dialer=dialer, parts=parts)

    async def reload() -> None:
        await reloads.reload()
        try:
            await connector.reload_policy()
        except ConfigurationError as exc:
            publish_not_reloaded(exc)

    async def main() -> None:
        async with (
            audited(audit, "connector", events),
            beginning.commands,
            status.serving(args.status),
            FlatNursery() as watching,
        ):
            watching.start_soon(reloads.watch)
            async with FlatNursery() as nursery:
                served = await nursery.start(partial(connector.run, stop=stop.event, grace=args.grace))
                await stop.say_ready("connector", [(string.entity_path, str(string.target)) for string in served])
            watching.cancel_scope.cancel()

    run_until_stopped(main, stop=stop, reloads=partial(args.reload_requests.serve, stop.unless_stopping(reload)))
    return exits.OK
