"""``hybridrelay status``, ``hybridrelay drop`` and ``hybridrelay drain``."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from functools import partial
from typing import TypeVar
from urllib.parse import quote

import trio

from ...errors import ConfigurationError, ManagementError
from ...management import Address, ManagementClient, read_status
from ...management.live_values import Dropped, ListenerDrain, RelayValue
from .. import async_output, exits, output
from ..relay_access import address_of, describe_access, refuse_management_options
from ..running import run_until_stopped
from ..screen import redrawn
from ..status_text import status_parts

T = TypeVar("T")

#: How often ``--watch`` shows the state (seconds).
_WATCH_SECONDS = 2.0


def run(args: argparse.Namespace) -> int:
    """Show the current state of a relay, connector or forward, once or repeatedly."""
    code: int | None = None
    if args.source is None:
        state = partial(_relay_state, address_of(args))
    else:
        from .endpoint_status import endpoint_state

        refuse_management_options(args, "--from", remedy="a status needs no credentials")
        state = partial(endpoint_state, args.source)

    async def main() -> None:
        nonlocal code
        if not args.watch:
            parts, following = await state(as_json=args.json)
            for part in parts:
                await async_output.say(part, end="")
            await async_output.say()
            code = following
            return
        while not output.is_lost():
            try:
                parts, following = await state(as_json=False)
            except ManagementError as exc:  # continue: the program may be restarted
                parts, following = (f"{exc}",), exits.FAILED
            await _show("".join(parts))
            code = following
            await trio.sleep(_WATCH_SECONDS)

    stopped_by = run_until_stopped(main)
    if code is None:
        assert stopped_by is not None
        return exits.SIGNAL + stopped_by
    return code


async def _relay_state(address: Address, *, as_json: bool) -> tuple[Iterable[str], int]:
    """Return the state of a relay as text or JSON, in parts, and the exit code."""
    client = ManagementClient(address)
    try:
        status = await read_status(client)
    finally:
        await client.aclose()
    parts = status.json_parts() if as_json else status_parts(status, time.time())
    return parts, exits.FAILED if status.relay.problems else exits.OK


async def _show(text: str) -> None:
    """Show the state for ``--watch``: on a terminal in place of the previous one, otherwise below it."""
    now, text = datetime.now().astimezone().isoformat(timespec="seconds"), output.without_controls(text)
    if sys.stdout.isatty():
        await async_output.draw(redrawn(f"{now}\n{text}", shutil.get_terminal_size()))
    else:
        await async_output.say(f"{now}\n{text}\n")


def _check_whole(what: str, given: str, args: argparse.Namespace) -> None:
    """Check that an id is complete: what is to end, or to be drained, is named exactly.

    Raises:
        ManagementError: it is not an id, or only a part of one.
    """
    digits = 16 if what == "sender" else 32
    if not re.fullmatch(f"[0-9a-f]{{{digits}}}", given):
        raise ManagementError(
            f"there is no {what} {given!r} of {args.name} at this relay; nothing was changed",
            remedy=f"give the whole id ({digits} hexadecimal digits), as in: hybridrelay status --json "
            f"{describe_access(args)}",
        )


def run_drop(args: argparse.Namespace) -> int:
    """End a listener, a sender or a session."""
    _check_whole(args.what, args.id, args)
    path = f"/v1/hybridConnections/{quote(args.name, safe='')}/{args.what}s/{quote(args.id, safe='')}"
    answer = _call(args, "DELETE", path, Dropped)
    if isinstance(answer, int):
        return answer
    if not answer.ended:
        raise ManagementError(
            f"there is no {args.what} {args.id} of {args.name} at this relay; nothing was ended",
            remedy=f"it may have ended before: see hybridrelay status {describe_access(args)}",
        )
    output.say(f"The {args.what} {args.id} of {args.name} has ended.")
    return exits.OK


def _call(args: argparse.Namespace, method: str, path: str, kind: type[T]) -> T | int:
    """Make one request to the relay. Returns its answer, or the exit code if a signal arrived first."""
    answers: list[T] = []
    address = address_of(args)

    async def main() -> None:
        client = ManagementClient(address)
        try:
            answers.append(await client.call(method, path, kind))
        finally:
            await client.aclose()

    stopped_by = run_until_stopped(main)
    if answers:
        return answers[0]
    assert stopped_by is not None
    return exits.SIGNAL + stopped_by


def run_drain(args: argparse.Namespace) -> int:
    """Make the relay refuse new registrations and joins, or accept them again; or drain one connector."""
    if args.name is not None:
        return _drain_listener(args)
    relay = _call(args, "DELETE" if args.undo else "POST", "/v1/relay/drain", RelayValue)
    if isinstance(relay, int):
        return relay
    if args.undo:
        output.say("The relay accepts registrations and joins again.")
    else:
        output.say(f"The relay accepts no new registrations and joins. Sessions left: {relay.session_count}.")
    return exits.OK


def _drain_listener(args: argparse.Namespace) -> int:
    """Offer no new sessions to one connector, or offer them again."""
    if args.instance is None:
        raise ConfigurationError(
            "the instance of the connector is missing",
            remedy=f"name it after {args.name}: hybridrelay status --json shows it under listeners",
        )
    _check_whole("listener", args.instance, args)
    path = f"/v1/hybridConnections/{quote(args.name, safe='')}/listeners/{quote(args.instance, safe='')}/drain"
    answer = _call(args, "DELETE" if args.undo else "POST", path, ListenerDrain)
    if isinstance(answer, int):
        return answer
    if not answer.changed:
        raise ManagementError(
            f"nothing was changed: {args.instance} is not registered for {args.name} at this relay, or it is "
            f"{'not drained' if args.undo else 'drained'} already",
            remedy=f"see hybridrelay status --json {describe_access(args)}",
        )
    if args.undo:
        output.say(f"The connector {args.instance} is offered new sessions of {args.name} again.")
    else:
        output.say(f"The connector {args.instance} is offered no new sessions of {args.name}.")
    return exits.OK
