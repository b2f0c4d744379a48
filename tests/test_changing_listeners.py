"""Changing the addresses on which a program listens, with addresses that exclude each other."""

from __future__ import annotations

import errno
from collections.abc import Collection

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay._changing_listeners import change_listeners
from hybridrelay.errors import ConfigurationError

#: A host, of which ``*`` is every one, and a port.
Address = tuple[str, int]
ADDRESSES = st.tuples(st.sampled_from(["*", "a", "b"]), st.sampled_from([1, 2]))


class Machine:
    """A machine on which only one program runs. Addresses in `broken` cannot be opened."""

    def __init__(self, broken: Collection[Address] = ()) -> None:
        self.broken = broken
        self.open_now: list[Address] = []
        self.said: list[str] = []

    async def open(self, address: Address) -> Address:
        await trio.lowlevel.checkpoint()
        if address in self.broken:
            raise ConfigurationError(f"{text_of(address)}: not allowed") from OSError(errno.EACCES, "not allowed")
        if any(excludes(one, address) for one in self.open_now):
            raise ConfigurationError(f"{text_of(address)}: in use") from OSError(errno.EADDRINUSE, "in use")
        self.open_now.append(address)
        self.said.append(f"+{text_of(address)}")
        return address

    async def close(self, address: Address) -> None:
        await trio.lowlevel.checkpoint()
        self.open_now.remove(address)
        self.said.append(f"-{text_of(address)}")

    async def change(self, current: dict[Address, Address], wanted: Collection[Address]) -> None:
        await change_listeners(
            current, wanted, open=self.open, close=self.close, may_exclude=same_port, describe=text_of
        )


def excludes(one: Address, other: Address) -> bool:
    return one[1] == other[1] and (one[0] == other[0] or "*" in (one[0], other[0]))


def text_of(address: Address) -> str:
    return f"{address[0]}{address[1]}"


def same_port(one: Address, other: Address) -> bool:
    return one[1] == other[1]


async def opened(machine: Machine, *addresses: Address) -> dict[Address, Address]:
    current: dict[Address, Address] = {}
    await machine.change(current, addresses)
    machine.said.clear()
    return current


@pytest.mark.parametrize(
    ("before", "wanted", "said"),
    [
        ([("a", 1)], [("a", 1)], []),
        ([("a", 1)], [("b", 1)], ["+b1", "-a1"]),
        ([("a", 1), ("b", 1)], [("b", 1), ("a", 2)], ["+a2", "-a1"]),
        ([("*", 1), ("*", 2)], [("a", 1), ("*", 2)], ["-*1", "+a1"]),
        ([("a", 1), ("b", 1)], [("*", 1)], ["-a1", "-b1", "+*1"]),
    ],
)
async def test_what_is_opened_and_closed_in_which_order(
    before: list[Address], wanted: list[Address], said: list[str]
) -> None:
    machine = Machine()
    current = await opened(machine, *before)
    await machine.change(current, wanted)
    assert machine.said == said
    assert set(current) == set(machine.open_now) == set(wanted)


async def test_one_that_cannot_be_opened_changes_nothing() -> None:
    machine = Machine(broken=[("b", 1)])
    current = await opened(machine, ("*", 1), ("*", 2))
    with pytest.raises(ConfigurationError, match=r"^b1: not allowed$"):
        await machine.change(current, [("a", 2), ("a", 1), ("b", 1)])
    assert set(current) == set(machine.open_now) == {("*", 1), ("*", 2)}


async def test_what_cannot_be_opened_again_is_named() -> None:
    machine = Machine()
    current = await opened(machine, ("*", 1))
    machine.broken = [("*", 1), ("b", 1)]
    says = r"^b1: not allowed; \*1 had to be closed for this, and cannot be opened again$"
    with pytest.raises(ConfigurationError, match=says):
        await machine.change(current, [("a", 1), ("b", 1)])
    assert set(current) == set(machine.open_now) == set()


@given(before=st.sets(ADDRESSES), wanted=st.lists(ADDRESSES, unique=True), broken=st.sets(ADDRESSES))
def test_a_change_is_made_completely_or_not_at_all(
    before: set[Address], wanted: list[Address], broken: set[Address]
) -> None:
    """Afterwards, either all that is wanted is open and nothing else, or what was open before; and what the function
    says is open is open."""

    async def main() -> None:
        machine = Machine()
        current: dict[Address, Address] = {}
        for one in sorted(before):
            if not any(excludes(other, one) for other in current):
                await machine.change(current, [*current, one])
        was = set(current)
        machine.broken = broken - was
        said, after = "", set(wanted)
        try:
            await machine.change(current, wanted)
        except ConfigurationError as exc:
            said, after = str(exc), was
        assert "cannot be opened again" not in said
        assert set(current) == set(machine.open_now) == after

    trio.run(main)


async def cancelled_after(steps: int) -> bool:
    """Change something, and cancel it when this many steps were taken. Returns whether it has ended before."""
    machine = Machine()
    current = await opened(machine, ("*", 1), ("b", 2))
    with trio.CancelScope() as scope:

        async def open_one(address: Address) -> Address:
            if len(machine.said) >= steps:
                scope.cancel()
            return await machine.open(address)

        wanted = [("a", 1), ("a", 2)]
        await change_listeners(
            current, wanted, open=open_one, close=machine.close, may_exclude=same_port, describe=text_of
        )
        assert set(current) == set(wanted)
    assert set(current) <= set(machine.open_now)
    return not scope.cancelled_caught


async def test_if_cancelled_it_is_known_what_is_open() -> None:
    ended = [await cancelled_after(steps) for steps in range(6)]
    assert (ended[0], ended[-1]) == (False, True)
