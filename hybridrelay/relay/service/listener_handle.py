"""The interfaces of control channels that the broker uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ...protocol import control
from ...protocol.reasons import Reason
from ..model import KeyId

__all__ = ["ListenerHandle", "SenderHandle"]


class ListenerHandle(Protocol):
    """The control channel of a listener.

    `Places` also keeps control channels of clients under this type, and uses only `end` of them.
    """

    async def take_turn(self, connection: str, holder: str, until: float) -> int | None:
        """Wait until an offer may be sent to the listener; see `OfferTurns`.

        Args:
            connection: the name of the hybrid connection.
            holder: see `control.Offer.holder`.
            until: until when to wait, on Trio's clock. An offer that need not wait may be sent even after this.

        Returns:
            The number with which `offer` is to be called; None if the listener answers nothing.

        Raises:
            trio.TooSlowError: too many others wait.
            trio.BrokenResourceError: the listener's control channel has ended.
        """

    async def offer(
        self,
        number: int,
        connection: str,
        ticket: bytes,
        lifetime_seconds: float,
        *,
        withdraw: Callable[[], None],
        proved: Callable[[], None],
        holder: str = "",
        rendezvous: str = "",
        client_address: str = "",
    ) -> control.Accept | control.Failed:
        """Offer a rendezvous to the listener, and return its answer. The caller sets the deadline.

        Args:
            number: from `take_turn`.
            connection: the name of the hybrid connection.
            ticket: the ticket for the listener's data channel.
            lifetime_seconds: how long the ticket is valid.
            withdraw: called if the listener accepts but later reports that it cannot open a data channel.
            proved: called if the listener accepts, and later reports that the sender has proved its identity.
            holder: see `control.Offer.holder`.
            rendezvous: the id of the rendezvous.
            client_address: the address of the sender, for the listener's audit log.

        Raises:
            trio.BrokenResourceError: the listener's control channel has ended.
        """

    def check_alive(self) -> None:
        """Check whether a listener that has not answered is alive, and end its control channel if it is not."""

    def ended(self, connection: str, reason: Reason) -> None:
        """Notify the listener that its registration has ended."""

    def end(self, reason: Reason) -> None:
        """End the control channel."""


class SenderHandle(Protocol):
    """What is known about the control channel of a client, and what an administrator can do to it."""

    #: When it connected, on Trio's clock.
    since: float

    @property
    def instance(self) -> str:
        """The client's instance, as stated by the client."""

    @property
    def address(self) -> str:
        """The client's address group (`address_group`)."""

    @property
    def transport(self) -> str:
        """The name of the transport."""

    @property
    def software(self) -> str:
        """Name and version of the client, as stated by the client."""

    def key_for(self, connection: str) -> KeyId | None:
        """Return the key with which the client may join a hybrid connection, or None."""

    def end(self, reason: Reason) -> None:
        """End the control channel."""
