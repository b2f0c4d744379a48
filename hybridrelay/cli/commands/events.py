"""``hybridrelay events``."""

from __future__ import annotations

import argparse
import logging
from collections import deque

import msgspec
import trio

from ..._printable import printable
from ...errors import ManagementError
from ...events.plain_log import fields_text
from ...management import ManagementClient
from ...management.following import EventPage, EventValue
from ...management.paging import PAGE, ListLimits
from .. import async_output, exits, output
from ..relay_access import address_of
from ..running import run_until_stopped

__all__ = ["follow", "run"]

logger = logging.getLogger("hybridrelay.cli")

_PATH = "/v1/events"
#: How long the relay may wait for an event before it answers without one (seconds).
_WAIT_SECONDS = 25.0
#: The pause between attempts while the relay does not answer (seconds).
_RETRY_SECONDS = 2.0
#: The shortest time between two requests, unless the page before was full (seconds). A relay collects events for this
#: long before it answers.
_BETWEEN_SECONDS = 0.2
#: The pause after an answer that came at once and brought no further event (seconds), although the request asks the
#: relay to wait for one: the first pause, and the longest. Each pause is twice as long as the one before.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 30.0


def run(args: argparse.Namespace) -> int:
    """Show the latest events, and follow further ones with ``--follow``."""
    address = address_of(args)
    is_complete = False

    async def main() -> None:
        nonlocal is_complete
        client = ManagementClient(address)
        try:
            last = await _show_latest(client, args)
            is_complete = True
            if args.follow:
                await follow(client, last, as_json=args.json)
        finally:
            with trio.CancelScope(shield=True):
                await client.aclose()

    stopped_by = run_until_stopped(main)
    if stopped_by is None or (is_complete and args.follow):
        return exits.OK
    return exits.SIGNAL + stopped_by


async def _show_latest(client: ManagementClient, args: argparse.Namespace) -> int:
    """Show the events so far. Returns the number of the last one, after which to continue."""
    latest: deque[EventValue] = deque(maxlen=args.limit if args.since is None else None)
    since: int | None = args.since
    limits = ListLimits(client, _PATH)
    while True:
        page = await client.get(_PATH, EventPage, query={"since": since, "limit": PAGE})
        if args.since is not None and not page.has_all:
            logger.warning("the relay no longer has all events since number %d", args.since)
        latest += page.value
        if page.last == since:
            break
        since = page.last
        limits.check_next(since)
    await _show(latest, as_json=args.json)
    return page.last


async def follow(client: ManagementClient, last: int, *, as_json: bool) -> None:
    """Show events as they are published, until standard output is lost.

    If what answers does not wait for events (a reverse proxy, or another program at this address), the pauses between
    requests grow.

    Args:
        client: sends the requests.
        last: the number of the last event that was shown.
        as_json: whether each event is shown as a line of JSON.

    Raises:
        ConfigurationError: the relay refuses the requests.
        RelayIdentityError: the relay's certificate is not trusted.
        RelayIdentityError: the relay's certificate is not trusted.
    """
    is_interrupted, pause = False, 0.0
    while not output.is_lost():
        began = trio.current_time()
        wait = 0.0 if is_interrupted else _WAIT_SECONDS  # say soon that the relay answers again
        query = {"since": last, "limit": PAGE, "wait": wait}
        try:
            page = await client.get(_PATH, EventPage, query=query, seconds=wait)
        except ManagementError as exc:  # the relay may be restarted
            if not is_interrupted:
                logger.warning("%s; trying again until it answers", exc)
            is_interrupted = True
            await trio.sleep(_RETRY_SECONDS)
            continue
        if is_interrupted:
            logger.warning("the relay answers again")
        is_interrupted = False
        if not page.has_all:
            logger.warning("some events are missing, because the relay has restarted or no longer has them")
        is_at_once = wait > 0 and trio.current_time() - began < wait / 2
        if is_at_once and not (page.value and page.last > last):
            pause = min(max(_FIRST_PAUSE_SECONDS, 2 * pause), _LONGEST_PAUSE_SECONDS)
        else:
            pause = 0.0
        last = page.last
        await _show(page.value, as_json=as_json)
        if len(page.value) < PAGE or pause:
            await trio.sleep_until(began + max(_BETWEEN_SECONDS, pause))


async def _show(events: deque[EventValue] | tuple[EventValue, ...], *, as_json: bool) -> None:
    for event in events:
        await async_output.say(msgspec.json.encode(event).decode() if as_json else _line(event))


def _line(event: EventValue) -> str:
    facts = fields_text(dict(event.fields))
    return printable(f"{event.time} {event.level:<7} {event.name}: {event.summary}{f': {facts}' if facts else ''}")
