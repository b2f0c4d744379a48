"""Sends the checkpoints of this program's audit log over a control channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from ..audit.chain import Checkpoint
from ..audit.witnessing import Witnessing
from ..errors import RelayUnreachable
from ..protocol import control
from ..protocol.reasons import Reason
from .control import ControlChannel

__all__ = ["send_checkpoints"]

#: Under how many names the relay is asked to keep one checkpoint if it has no room. It accepts a few in a burst.
_MAX_NAMES: Final = 3


async def send_checkpoints(
    channel: ControlChannel, host: str, connections: Callable[[], Sequence[str]], witnessing: Witnessing
) -> None:
    """Send checkpoints until cancelled, or until the control channel is lost.

    Args:
        channel: the control channel.
        host: the relay's host name.
        connections: returns the hybrid connections for which the relay has accepted a token over the channel. If it
            has no room for more checkpoints under the name of one, it is asked to keep them under the next one.
        witnessing: knows what is to be sent, and what was confirmed.
    """

    full: list[str] = []  # the names under which it had no room, the latest one last

    async def send(checkpoint: Checkpoint) -> str:
        # The first that is not full; then those that were full for the longest time.
        names = sorted(connections(), key=lambda name: full.index(name) if name in full else -1)
        why = "no hybrid connection is registered there at the moment"
        for name in names[:_MAX_NAMES]:
            try:
                answer = await channel.witness(name, checkpoint)
            except RelayUnreachable:
                if channel.has_ended:
                    raise
                return "it does not answer; its version may be too old to keep checkpoints"
            if not isinstance(answer, control.Failed):
                return ""
            why = answer.detail or answer.reason.describe
            if answer.reason is not Reason.LIMIT:
                break
            full[:] = [*(one for one in full if one in names and one != name), name]
        return why

    with suppress(RelayUnreachable):  # its owner notices this, too
        await witnessing.keep_sending(host, send)
