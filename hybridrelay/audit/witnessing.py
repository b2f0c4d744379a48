"""Sends the checkpoints of the audit log to relays, at a pace of its own for each relay."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import trio

from .chain import Checkpoint
from .witnesses import Witnesses

__all__ = ["PACE_SECONDS", "SendCheckpoint", "Witnessing"]

#: The least time between two checkpoints to one relay (seconds). A relay accepts one every ten seconds.
PACE_SECONDS: Final = 20.0
#: How long to wait after the first failure, and after each further one (seconds). A relay that does not answer is
#: probably of an earlier version.
_RETRY_SECONDS: Final = (20.0, 60.0)

#: Sends a checkpoint to a relay, and waits for the answer. Returns an empty text if the relay has confirmed it,
#: otherwise why not. Raises if the control channel is lost.
SendCheckpoint: TypeAlias = Callable[[Checkpoint], Awaitable[str]]


class Witnessing:
    """The witnesses of a program's audit log: `Witnesses`, with its clock, and the tasks that send."""

    def __init__(self) -> None:
        self.witnesses = Witnesses()
        #: Set, and replaced, when a checkpoint was written.
        self._signed = trio.Event()
        #: For each relay: held by the task that sends to it. Others, over further control channels, wait.
        self._sending: dict[str, trio.Lock] = {}

    def signed(self, checkpoint: Checkpoint) -> None:
        """Note that a checkpoint was written. It is sent to all relays."""
        self.witnesses.signed(checkpoint, trio.current_time())
        signed, self._signed = self._signed, trio.Event()
        signed.set()

    async def keep_sending(self, host: str, send: SendCheckpoint) -> None:
        """Send the latest checkpoint to a relay that has not confirmed it, until cancelled or `send` raises.

        Several tasks may do this for one relay. One of them sends, and when it ends, another one continues.

        Args:
            host: the relay.
            send: sends a checkpoint over one control channel.
        """
        failures = 0
        async with self._sending.setdefault(host, trio.Lock()):
            while True:
                while (checkpoint := self.witnesses.wanted(host, trio.current_time())) is None:
                    await self._signed.wait()
                why = await send(checkpoint)
                if why:
                    self.witnesses.failed(host, why, trio.current_time())
                    await trio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
                    failures += 1
                else:
                    self.witnesses.confirmed(host, checkpoint, trio.current_time())
                    failures = 0
                    await trio.sleep(PACE_SECONDS)
