"""What the broker needs of a control channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ...protocol import control
from ...protocol.reasons import Reason
from ..model import KeyId

__all__ = ["ListenerHandle", "SenderHandle"]


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


class SenderHandle(Protocol):
    """What is known about the control channel of a client, and what an administrator can do to it."""

    #: When it connected, on Trio's clock.
    since: float

    @property
    def instance(self) -> str:
        """The client's instance, as it says."""

    @property
    def address(self) -> str:
        """The client's network address, as far as it counts as one."""

    @property
    def transport(self) -> str:
        """The name of the transport."""

    @property
    def software(self) -> str:
        """Name and version of the client, as it says."""

    def key_for(self, connection: str) -> KeyId | None:
        """The key with which it may join a hybrid connection; None: there is none."""

    def end(self, reason: Reason) -> None:
        """End it."""
