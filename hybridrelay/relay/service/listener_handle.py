"""What the broker needs of a control channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ...protocol import control
from ...protocol.reasons import Reason

__all__ = ["ListenerHandle"]


class ListenerHandle(Protocol):
    """What the broker needs of a control channel: a listener's, and at the end (`end`) of any."""

    async def offer(
        self,
        connection: str,
        ticket: bytes,
        lifetime_seconds: float,
        withdraw: Callable[[], None],
        proved: Callable[[], None],
        sender: str = "",
    ) -> control.Accept | control.Failed:
        """Ask the listener to come. The caller sets the deadline.

        Args:
            connection: the name of the hybrid connection.
            ticket: for the listener's data channel.
            lifetime_seconds: of the ticket.
            withdraw: called if it accepts, and says later that it cannot come.
            proved: called if it accepts, and says later that the sender has proved its identity.
            sender: see `control.Offer.sender`.

        Raises:
            trio.BrokenResourceError: the listener is gone.
        """

    def check_alive(self) -> None:
        """It did not answer: find out whether it is alive."""

    def ended(self, connection: str, reason: Reason) -> None:
        """Its registration is over."""

    def end(self, reason: Reason) -> None:
        """Its place is needed for another control channel."""
