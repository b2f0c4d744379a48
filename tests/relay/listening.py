"""A listener for the broker that answers offers as a test wants."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from hybridrelay.protocol import control
from hybridrelay.protocol.reasons import Reason

Answer = control.Accept | control.Failed


class FakeListener:
    """Implements `ListenerHandle`.

    Args:
        answer: the answer to each offer, or a function that returns it. None: it never answers.
    """

    def __init__(self, answer: Answer | Callable[[], Awaitable[Answer]] | None) -> None:
        self.answer = answer
        self.offers = 0
        #: Values of the last offer.
        self.ticket = b""
        self.holder = ""
        self.rendezvous = ""
        self.client_address = ""
        #: Reports that the sender of the last offer has proved its identity.
        self.prove: Callable[[], None] = lambda: None

    async def take_turn(self, connection: str, holder: str, until: float) -> int | None:
        await trio.lowlevel.checkpoint()
        return 0

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
    ) -> Answer:
        self.offers += 1
        self.client_address = client_address
        self.ticket, self.holder, self.rendezvous, self.prove = ticket, holder, rendezvous, proved
        if self.answer is None:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        if callable(self.answer):
            return await self.answer()
        assert self.answer is not None
        return self.answer

    def check_alive(self) -> None:
        assert self.answer is None or callable(self.answer), "it has answered"

    def ended(self, connection: str, reason: Reason) -> None:
        pass

    def end(self, reason: Reason) -> None:
        raise AssertionError("it has no place")


def deaf() -> FakeListener:
    """A listener that never answers."""
    return FakeListener(None)


def willing() -> FakeListener:
    """A listener that accepts each offer."""
    return FakeListener(control.Accept(1))


def leaving(leave: Callable[[], object]) -> FakeListener:
    """A listener whose control channel ends while it is asked; `leave` is called at that moment."""

    async def answer() -> Answer:
        leave()
        raise trio.BrokenResourceError

    return FakeListener(answer)
