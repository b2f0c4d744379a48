"""Resolving names, and trying their addresses until one of them answers.

A TCP connection alone proves little: a host at a stale address, or a middlebox, may accept connections without being
a relay. An attempt therefore counts as successful only when the relay (or the proxy) has answered. The next time,
the address at which the relay last proved its identity is tried first, and then the one that answered last.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import attrs
import trio

from ..streams.connecting import resolve_host

AnswerT = TypeVar("AnswerT")

#: The most addresses of one name that are tried. Protects against a name with hundreds of them.
MAX_ADDRESSES = 8


@attrs.define
class AddressBook:
    """What is known about the addresses of one name."""

    #: The address that answered last, or None. An answer is not authenticated.
    answered: str | None = None
    #: The address at which the relay last proved its identity, or None.
    proved: str | None = None

    def in_order(self, addresses: Sequence[str]) -> list[str]:
        """Return these addresses with `proved` first, then `answered`, then the others."""
        return sorted(addresses, key=lambda address: (address != self.proved, address != self.answered))

    def succeeded(self, address: str | None, *, proved: bool = False) -> None:
        """Note that an address answered as a relay does, and if `proved`, that it also proved its identity. None is
        ignored."""
        if address is not None:
            self.answered = address
            if proved:
                self.proved = address

    def failed(self, address: str | None) -> None:
        """Note that an address did not answer."""
        if address == self.answered:
            self.answered = None
        if address == self.proved:
            self.proved = None


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a name, at most `MAX_ADDRESSES`, in the order in which to try them.

    Raises:
        OSError: the name cannot be resolved.

    If `host` is an address, the result is that address. The caller sets the deadline."""
    names: list[str] = []
    for _, _, _, _, address in await resolve_host(host, port):
        name = str(address[0])
        if len(address) == 4 and address[3] and "%" not in name:
            name = f"{name}%{address[3]}"  # a link-local address is valid only on its interface
        names.append(name)
    return list(dict.fromkeys(names))[:MAX_ADDRESSES]


@attrs.define
class _Outcome(Generic[AnswerT]):
    answer: AnswerT | None = None
    error: Exception | None = None


async def first_answer(
    addresses: Sequence[str],
    attempt: Callable[[str], Awaitable[AnswerT]],
    *,
    no_answer: tuple[type[Exception], ...],
    stagger_seconds: float,
    discard: Callable[[AnswerT], Awaitable[None]],
) -> AnswerT:
    """Try addresses until one of them gives an answer.

    Args:
        addresses: in the order in which to begin; at least one.
        attempt: tries one address. It returns the answer, or raises.
        no_answer: exceptions of `attempt` after which the next address is tried. Any other ends all attempts.
        stagger_seconds: after this time, the next address is tried in parallel with the previous one. If the previous
            one fails earlier, the next one is tried at once.
        discard: disposes of an answer that is not returned.

    Raises:
        ExceptionGroup: no address gave an answer. Contains their `no_answer` exceptions, in the order of the
            addresses.
        Exception: any other exception of `attempt`.

    If cancelled, all attempts are cancelled, and answers are discarded.
    """
    outcomes: list[_Outcome[AnswerT]] = [_Outcome() for _ in addresses]
    failed = [trio.Event() for _ in addresses]
    # Indices of the addresses that have answered, or failed with an error that is not in `no_answer`, in order of
    # time. There may be several, because attempts can end at the same moment.
    arrived: list[int] = []
    chosen: int | None = None
    error: Exception | None = None
    try:
        try:
            async with trio.open_nursery() as nursery:

                async def run(index: int) -> None:
                    try:
                        outcomes[index].answer = await attempt(addresses[index])
                    except Exception as exc:  # noqa: BLE001 - raised below
                        outcomes[index].error = exc
                        if isinstance(exc, no_answer):
                            failed[index].set()
                            return
                    arrived.append(index)
                    nursery.cancel_scope.cancel()

                for index in range(len(addresses)):
                    if not arrived:
                        nursery.start_soon(run, index)
                        with trio.move_on_after(stagger_seconds):
                            await failed[index].wait()
            answered = [index for index in arrived if outcomes[index].error is None]
            chosen = next(iter(answered or arrived), None)
        finally:
            # After a cancellation, `chosen` is None, so every answer is discarded.
            for index in arrived:
                answer = outcomes[index].answer
                if index != chosen and answer is not None:
                    with trio.CancelScope(shield=True):
                        await discard(answer)
        if chosen is None:
            raise ExceptionGroup("no address answers", [o.error for o in outcomes if o.error is not None])
        error = outcomes[chosen].error
        if error is not None:
            raise error
        answer = outcomes[chosen].answer
        assert answer is not None
        return answer
    finally:
        # The tracebacks of the exceptions refer to these variables. Break the cycles, because the exceptions may also
        # refer to TLS streams, and so to memory of OpenSSL.
        outcomes.clear()
        error = None
