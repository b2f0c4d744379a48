"""Sends the checkpoints of this program's audit log over a control channel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from ..audit.chain import Checkpoint
from ..audit.witnessing import Witnessing
from ..errors import RelayUnreachable
from ..protocol import control
from .control import ControlChannel

__all__ = ["send_checkpoints"]


async def send_checkpoints(
    channel: ControlChannel, host: str, connection: Callable[[], str | None], witnessing: Witnessing
) -> None:
    """Send checkpoints until cancelled, or until the control channel is lost.

    Args:
        channel: the control channel.
        host: the relay's host name.
        connection: returns a hybrid connection of which the relay has accepted a token over the channel; None if
            there is none at the moment.
        witnessing: knows what is to be sent, and what was confirmed.
    """

    async def send(checkpoint: Checkpoint) -> str:
        name = connection()
        if name is None:
            return "no hybrid connection is registered there at the moment"
        try:
            answer = await channel.witness(name, checkpoint)
        except RelayUnreachable:
            if channel.has_ended:
                raise
            return "it does not answer; a relay of an earlier version keeps no checkpoints"
        if isinstance(answer, control.Failed):
            return answer.detail or answer.reason.describe
        return ""

    with suppress(RelayUnreachable):  # its owner notices this, too
        await witnessing.keep_sending(host, send)
