"""Whether processes, and the Trio run of a test, have released everything that they should have released."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import trio

from hybridrelay._statistics import program_statistics

from .deployments import Program
from .waiting import async_wait_until

Holdings = Mapping[str, int]

#: For last acknowledgements, closing handshakes and their deadlines, on a busy machine.
SETTLING_SECONDS = 30
#: By how much memory may grow from the first half of twenty rounds to the second. Measured: up to 3 MiB, most of
#: it within the first ten rounds, while the allocator finds its level. What grows by more than 600 KiB in each round,
#: 12 KiB for each of its streams, is found.
MEMORY_NOISE_BYTES = 6 << 20

#: Tasks that end by themselves some seconds after they had something to do: one for each session, or time limit.
_TRANSIENT = ("hybridrelay.mux.session.Session._stop_waiting", "hybridrelay.streams.timeouts.Timeouts._run")


@contextmanager
def no_garbage_collector() -> Iterator[None]:
    """In the block, only objects that are in no reference cycle are freed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def holdings(found: Mapping[str, Any]) -> Holdings:
    """The counts and tasks that depend only on what is open, without the memory, which varies.

    Args:
        found: statistics as in JSON.
    """
    held = dict(found)
    tasks = held.pop("tasks_by_name")
    held["tasks"] -= sum(tasks.pop(name, 0) for name in _TRANSIENT)
    held.update({f"task {name}": number for name, number in tasks.items()})
    del held["resident_bytes"]
    held["descriptors"] -= 2 * held.pop("pipes", 0)  # kept for reuse
    return {name: number for name, number in held.items() if number}


async def of_program(program: Program) -> Holdings:
    """What a process holds."""
    return holdings(await trio.to_thread.run_sync(program.statistics))


async def of_this_run() -> Holdings:
    """What the Trio run that calls this holds."""
    await trio.lowlevel.checkpoint()
    return holdings(program_statistics().as_dict())


async def settled(look: Callable[[], Awaitable[Holdings]]) -> Holdings:
    """What is held once nothing changes: no stream is open, all is acknowledged, and a second look finds the same."""
    last: Holdings | None = None

    async def same_again() -> Holdings | None:
        nonlocal last
        last, before = await look(), last
        busy = last.keys() & {"streams", "queued_bytes", "unread_bytes", "unacknowledged_bytes", "open_rendezvous"}
        return last if last == before and not busy else None

    try:
        return await async_wait_until(same_again, seconds=SETTLING_SECONDS, what="nothing moves")
    except TimeoutError as exc:
        raise AssertionError(f"{exc}: {last}") from None


async def assert_back_to(
    base: Holdings,
    look: Callable[[], Awaitable[Holdings]],
    *,
    what: str,
    or_less: bool = False,
    seconds: float = SETTLING_SECONDS,
) -> None:
    """Wait until exactly as much is held as in `base`, or with `or_less` no more than that."""
    wrong: dict[str, tuple[int, int]] = {}

    async def back() -> bool:
        nonlocal wrong
        held = await look()
        pairs = {name: (base.get(name, 0), held.get(name, 0)) for name in sorted(base.keys() | held.keys())}
        wrong = {name: (was, now) for name, (was, now) in pairs.items() if (now > was if or_less else now != was)}
        return not wrong

    try:
        await async_wait_until(back, seconds=seconds, what="back to base")
    except TimeoutError:
        raise AssertionError(f"{what} does not let go, (was, is): {wrong}") from None


def growth(sizes: Sequence[int]) -> int:
    """The difference between the medians of the second half and the first half."""
    half = len(sizes) // 2
    return int(statistics.median(sizes[half:]) - statistics.median(sizes[:half]))
