"""Changing the addresses on which a program listens while it runs.

1. Addresses that are in both configurations are not touched.
2. New addresses are opened before removed ones are closed, so that a mistake costs nothing.
3. The system refuses some new addresses only because of a removed one, such as ``127.0.0.1:80`` because of
   ``*:80``. The removed one is then closed first, and opened again if the new address still cannot be opened.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

import trio

from .errors import ConfigurationError

__all__ = ["change_listeners"]

K = TypeVar("K")
V = TypeVar("V")


async def change_listeners(
    current: dict[K, V],
    wanted: Collection[K],
    *,
    open: Callable[[K], Awaitable[V]],  # noqa: A002 - named after what it does
    close: Callable[[V], Awaitable[None]],
    may_exclude: Callable[[V, K], bool],
    describe: Callable[[K], str],
) -> None:
    """Open what is wanted and not in `current`, close what is in `current` and not wanted, and change `current`.

    Args:
        current: what is open, by its address. It is always up to date, even while this is waiting.
        wanted: what is to be open afterwards.
        open: opens an address, and returns what `current` stores for it. Raises `ConfigurationError`, whose cause is
            the error of the system.
        close: closes what `open` has returned. Does not raise.
        may_exclude: returns whether something that is open (the first argument) may be why an address (the second)
            cannot be opened.
        describe: returns what to call an address in messages.

    Raises:
        ConfigurationError: an address could not be opened. Those that were open before are open, except the ones that
            the message names.

    If cancelled, some of the new addresses may be open, and some of those to be closed may still be open. `current`
    says which.
    """
    gone = [one for one in current if one not in wanted]
    opened: list[K] = []
    closed: list[K] = []

    async def close_one(one: K) -> None:
        await close(current.pop(one))

    for one in dict.fromkeys(wanted):
        if one in current:
            continue
        try:
            try:
                current[one] = await open(one)
            except ConfigurationError as exc:
                rivals = [rival for rival in gone if rival in current and may_exclude(current[rival], one)]
                if not (rivals and isinstance(exc.__cause__, OSError) and exc.__cause__.errno == errno.EADDRINUSE):
                    raise
                for rival in rivals:
                    await close_one(rival)
                    closed.append(rival)
                current[one] = await open(one)
        except ConfigurationError as exc:
            for earlier in opened:
                await close_one(earlier)
            lost = []
            for rival in closed:
                try:
                    current[rival] = await open(rival)
                except ConfigurationError:
                    lost.append(describe(rival))
            if lost:
                text = f"{exc}; {' and '.join(lost)} had to be closed for this, and cannot be opened again"
                raise ConfigurationError(text, remedy=exc.remedy) from exc
            raise
        opened.append(one)
    for one in gone:
        if one in current:
            await close_one(one)
    await trio.lowlevel.checkpoint()
