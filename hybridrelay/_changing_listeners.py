"""Changing the addresses on which a program listens while it runs.

1. What is in both configurations is not touched.
2. What is new is opened before what is gone is closed, so that a mistake costs nothing.
3. The system refuses some new addresses only because of an old one that is gone, such as ``127.0.0.1:80`` because of
   ``*:80``. That one is then closed first. If the new address still cannot be opened, it is opened again.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Collection
from typing import Generic, TypeVar

import attrs
import trio

__all__ = ["NotChanged", "change_listeners"]

K = TypeVar("K")
V = TypeVar("V")


@attrs.frozen(eq=False)
class NotChanged(Exception, Generic[K]):
    """Something new could not be opened, and what was open before is open again."""

    #: What could not be opened, and why.
    wanted: K
    error: OSError
    #: What had to be closed for the attempt, and could not be opened again.
    lost: tuple[K, ...] = ()


async def change_listeners(
    current: dict[K, V],
    wanted: Collection[K],
    *,
    open: Callable[[K], Awaitable[V]],  # noqa: A002 - it is called like what it does
    close: Callable[[V], Awaitable[None]],
    may_exclude: Callable[[V, K], bool],
) -> None:
    """Open what is wanted and not in `current`, close what is in `current` and not wanted, and change `current`.

    Args:
        current: what is open, by its address. It is always up to date, also while this is waiting.
        wanted: what is to be open afterwards.
        open: opens one. Raises OSError.
        close: closes one. Does not raise.
        may_exclude: returns whether the first one, which is open, may be the reason why the second one cannot be
            opened.

    Raises:
        NotChanged: something could not be opened.

    If cancelled, `current` may have some of what is new and some of what is gone.
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
            except OSError as exc:
                rivals = [rival for rival in gone if rival in current and may_exclude(current[rival], one)]
                if exc.errno != errno.EADDRINUSE or not rivals:
                    raise
                for rival in rivals:
                    await close_one(rival)
                    closed.append(rival)
                current[one] = await open(one)
        except OSError as exc:
            for earlier in opened:
                await close_one(earlier)
            lost = []
            for rival in closed:
                try:
                    current[rival] = await open(rival)
                except OSError:
                    lost.append(rival)
            raise NotChanged(one, exc, tuple(lost)) from exc
        opened.append(one)
    for one in gone:
        if one in current:
            await close_one(one)
    await trio.lowlevel.checkpoint()
