"""A staggered race in which rank counts for more than speed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio


@attrs.frozen
class RaceTiming:
    """When runners start, and how long a better one is waited for. All in seconds."""

    #: The next runner starts when the one before it has failed, or after this. RFC 8305 advises 250 ms: most answers
    #: have come by then, and people do not notice it.
    stagger_seconds: float = 0.25
    #: A better runner that is still under way gets at least this when a worse one has arrived ...
    min_grace_seconds: float = 0.3
    #: ... as long as the worse one took, since far away everything is slow, but at most this.
    max_grace_seconds: float = 2.0


async def race(runners: Sequence[Callable[[], Awaitable[bool]]], timing: RaceTiming) -> int | None:
    """Run them, best first, and give the index of the one to use, or None where all failed.

    A runner returns whether it arrived. Who is still running when the race is decided gets cancelled.
    """
    failed = [trio.Event() for _ in runners]
    best: int | None = None

    async with trio.open_nursery() as nursery:

        def decide_if_settled() -> None:
            if best is not None and all(event.is_set() for event in failed[:best]):
                nursery.cancel_scope.cancel()

        async def run(index: int) -> None:
            nonlocal best
            began = trio.current_time()
            if not await runners[index]():
                failed[index].set()
            elif best is None or index < best:
                best = index
                now = trio.current_time()
                grace = min(max(now - began, timing.min_grace_seconds), timing.max_grace_seconds)
                # Never prolonged: the first arrival said how long to wait.
                nursery.cancel_scope.deadline = min(nursery.cancel_scope.deadline, now + grace)
            decide_if_settled()

        for index in range(len(runners)):
            if best is not None:
                break
            nursery.start_soon(run, index)
            with trio.move_on_after(timing.stagger_seconds):
                await failed[index].wait()
    return best
