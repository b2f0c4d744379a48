"""``hybridrelay audit checkpoints``: what a relay keeps of the audit logs of connectors and clients."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec

from ...audit.chain import Checkpoint
from ...errors import ConfigurationError
from ...management import ManagementClient
from ...management.checkpoints import CheckpointPage, CheckpointValue
from ...management.paging import PAGE, read_pages
from ...relay.checkpoints import CheckpointQuery
from ...relay.store.checkpoints import CheckpointFile
from ...relay.store.state_dir import prepare_state_directory
from .. import exits, output
from ..relay_access import open_client
from ..times import utc_text

__all__ = ["read_checkpoints", "run", "witness_of"]


def run(args: argparse.Namespace) -> int:
    """Show checkpoints, or delete those of a log."""
    if args.delete:
        return _delete(args)
    found = read_checkpoints(args, log=args.log, connection=args.connection)
    if args.json:
        for one in found:
            output.say(msgspec.json.encode(one).decode())
    elif not found:
        output.say("no checkpoints match")
    else:
        header = ("CONNECTION", "LOG", "UP TO RECORD", "HASH", "RECEIVED", "FROM")
        output.say(output.table(header, map(_row, found), right=frozenset({2})))
    return exits.OK


def _delete(args: argparse.Namespace) -> int:
    if args.log is None or args.connection is None:
        raise ConfigurationError(
            "--delete needs --log and --connection", remedy="see them with: hybridrelay audit checkpoints"
        )
    with open_client(args) as client:
        if client is None:
            raise ConfigurationError(
                "checkpoints are evidence: only a running relay deletes them, so that it can record the deletion",
                remedy="start the relay, and try again",
            )
        path = f"/v1/hybridConnections/{quote(args.connection, safe='')}/auditCheckpoints/{args.log}"
        client.run(lambda api: api.call("DELETE", path, type(None)))
    output.say(f"deleted the checkpoints of the audit log {args.log} that were kept for {args.connection}")
    return exits.OK


def read_checkpoints(
    args: argparse.Namespace, *, log: str | None = None, connection: str | None = None
) -> list[CheckpointValue]:
    """Return what the relay that ``--state`` or ``--management`` names keeps, in the order in which it has stored it.

    Args:
        args: the arguments of a command with `add_relay`.
        log: only the audit log with this id.
        connection: only under the name of this hybrid connection.

    Raises:
        HybridRelayError: the relay cannot be reached, or its answer is not valid; or no relay runs, and its state
            directory or the file cannot be used.
    """
    with open_client(args) as client:
        if client is not None:
            return client.run(partial(_ask, query={"log": log, "connection": connection}))
    prepare_state_directory(args.state, create=False)
    file, found, after = CheckpointFile(args.state), list[CheckpointValue](), 0
    if not file.file.path.exists():
        return []
    try:
        while page := file.read(CheckpointQuery(PAGE, after, log or "", connection or "")):
            found += map(CheckpointValue.of, page)
            after = page[-1].id
    finally:
        file.close()
    return found


async def _ask(client: ManagementClient, query: Mapping[str, Any]) -> list[CheckpointValue]:
    pages = await read_pages(client, "/v1/auditCheckpoints", CheckpointPage, query=query)
    return [one for page in pages for one in page.value]


def witness_of(found: list[CheckpointValue]) -> list[Checkpoint]:
    """Return what a relay keeps, for `verify_directory`. A relay keeps nothing without a signature.
    Anything that it shows without one, it has made up, so this is left out."""
    return [
        Checkpoint(one.log, one.last, one.head, one.signed_at, one.key, one.signature)
        for one in found
        if one.signature
    ]


def _row(one: CheckpointValue) -> tuple[str, ...]:
    return (one.connection, one.log, str(one.last), one.head, utc_text(one.received_at), one.address)
