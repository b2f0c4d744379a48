"""What a taker is answered, and which events follow."""

from __future__ import annotations

import hashlib

import attrs
import pytest
import trio

from hybridrelay import _confirmed_time
from hybridrelay.errors import StateError
from hybridrelay.events import Event, EventStream
from hybridrelay.events.claims import ClaimExpiresSoon, ClaimRefused, ClaimTaken, ClaimTakenAgain, ClaimUnknown
from hybridrelay.protocol import control
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.claims import Claim
from hybridrelay.relay.service import claims as module
from hybridrelay.relay.service.claims import ClaimService, NoClaims
from hybridrelay.relay.store.memory import MemoryStore
from hybridrelay.security import MAX_SEALED, Right, Rule

from ...waiting import async_wait_until

PROOF = bytes(range(32))
ID = "ab" * 16
TAKE = control.Take(7, ID, PROOF.hex())
AT, PEER = 1_700_000_000.0, "192.0.2.1"


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore(lambda: AT)
    store.create("orders", ["relay"], [Rule.generate("sender", [Right.SEND])])
    return store


@pytest.fixture
def service(store: MemoryStore, events: list[Event]) -> ClaimService:
    return ClaimService(store, trio.CapacityLimiter(1), EventStream(events.append), clock=lambda: AT)


def add(store: MemoryStore, sealed: bytes = b"sealed") -> None:
    store.add_claim(Claim(ID, "orders", hashlib.sha256(PROOF).hexdigest(), sealed, AT, AT + 60))


async def test_the_content_comes_in_parts(store: MemoryStore, service: ClaimService, events: list[Event]) -> None:
    sealed = bytes(range(256)) * (MAX_SEALED // 256)
    add(store, sealed)
    answer = await service.take(TAKE, PEER)
    assert [type(part) for part in answer] == [control.Taken] * 6
    parts = [part for part in answer if isinstance(part, control.Taken)]
    assert [(part.id, part.number, part.count) for part in parts] == [(7, number, 6) for number in range(6)]
    assert bytes.fromhex("".join(part.sealed for part in parts)) == sealed
    assert events == [ClaimTaken(connection="orders", claim=ID, peer=PEER)]


async def test_the_second_taker_raises_the_alarm(
    store: MemoryStore, service: ClaimService, events: list[Event]
) -> None:
    add(store)
    await service.take(TAKE, PEER)
    del events[:]
    assert await service.take(TAKE, "192.0.2.2") == [control.Failed(7, Reason.CLAIM_TAKEN, "at 2023-11-14T22:13:20Z")]
    assert events == [ClaimTakenAgain(connection="orders", claim=ID, peer="192.0.2.2", taken_at=AT, taken_by=PEER)]


async def test_a_taker_that_did_not_get_the_answer_raises_no_alarm(
    store: MemoryStore, service: ClaimService, events: list[Event]
) -> None:
    add(store)
    take = control.Take(7, ID, PROOF.hex(), "cd" * 16)
    await service.take(take, PEER)
    del events[:]
    (answer,) = await service.take(take, PEER)
    assert isinstance(answer, control.Failed)
    assert answer.reason is Reason.CLAIM_LOST
    assert events == [ClaimRefused(connection="orders", claim=ID, peer=PEER, reason=Reason.CLAIM_LOST)]


async def test_the_alarm_is_raised_once(store: MemoryStore, service: ClaimService, events: list[Event]) -> None:
    """Somebody with a used code can ask for its claim any number of times."""
    add(store)
    for number in range(5):
        await service.take(TAKE, f"192.0.2.{number}")
    assert [type(event) for event in events] == [ClaimTaken, ClaimTakenAgain, *3 * [ClaimRefused]]
    assert events[-1] == ClaimRefused(connection="orders", claim=ID, peer="192.0.2.4", reason=Reason.CLAIM_TAKEN)
    (claim,) = store.claims("orders")
    assert claim.taken_again == 4


async def test_a_guess_and_a_refusal_differ_only_for_a_taker_with_the_code(
    store: MemoryStore, service: ClaimService, events: list[Event]
) -> None:
    add(store)
    wrong = control.Take(7, ID, "00" * 32)
    other = control.Take(7, "cd" * 16, PROOF.hex())
    for take in (wrong, other):
        assert await service.take(take, PEER) == [control.Failed(7, Reason.CLAIM_UNKNOWN)]
    assert events == [ClaimUnknown(peer=PEER)] * 2
    store.revoke_claim("orders", ID)
    assert await service.take(wrong, PEER) == [control.Failed(7, Reason.CLAIM_UNKNOWN)]
    assert await service.take(TAKE, PEER) == [control.Failed(7, Reason.CLAIM_REVOKED)]
    assert events[-1] == ClaimRefused(connection="orders", claim=ID, peer=PEER, reason=Reason.CLAIM_REVOKED)


async def test_a_store_that_cannot_be_used(
    store: MemoryStore, service: ClaimService, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StateError("the disk is full")

    monkeypatch.setattr(store, "take_claim", fail)
    (answer,) = await service.take(TAKE, PEER)
    assert isinstance(answer, control.Failed)
    assert (answer.reason, events) == (Reason.BUSY, [])
    assert "disk" not in answer.detail


async def test_a_relay_without_claims() -> None:
    assert await NoClaims().take(TAKE, PEER) == [control.Failed(7, Reason.CLAIM_UNKNOWN)]


@attrs.define
class Clock:
    """A clock that the test sets."""

    now: float = AT

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("ended", ["taken", "revoked"])
async def test_a_claim_that_expires_soon_is_reported_once(events: list[Event], ended: str) -> None:
    """When three quarters of its time have passed, and not if it has been taken or revoked before."""
    clock = Clock()
    store = MemoryStore(clock)
    store.create("orders", ["relay"], [Rule.generate("sender", [Right.SEND])])
    digest = hashlib.sha256(PROOF).hexdigest()
    day = 86_400.0
    for number, note in ((1, "forgotten"), (2, "used")):
        store.add_claim(Claim(f"{number:032x}", "orders", digest, b"sealed", AT, AT + day, note))
    if ended == "taken":
        store.take_claim(f"{2:032x}", PROOF, PEER)
    else:
        store.revoke_claim("orders", f"{2:032x}")
    service = ClaimService(store, trio.CapacityLimiter(1), EventStream(events.append), clock=clock)
    found: list[list[Event]] = []
    for at in (0.0, 0.74, 0.75, 0.9, 1.0):
        clock.now = AT + at * day
        await service.sweep(clock.now)
        found.append(list(events))
        events.clear()
    expected = ClaimExpiresSoon(connection="orders", claim=f"{1:032x}", note="forgotten", expires_at=AT + day)
    assert found == [[], [], [expected], [], []]


async def test_a_clock_that_is_wrong_for_a_moment_deletes_no_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """The administrator would have to make another claim, and bring it to its taker."""
    monkeypatch.setattr(module, "_SWEEP_SECONDS", 0.001)
    clock, readings = Clock(), 0
    store = MemoryStore(clock)
    store.create("orders", ["relay"], [Rule.generate("sender", [Right.SEND])])
    claim = Claim("1" * 32, "orders", hashlib.sha256(PROOF).hexdigest(), b"sealed", AT, AT + 86_400, "")
    store.add_claim(claim)

    def read() -> float:
        nonlocal readings
        readings += 1
        return clock()

    async def some_sweeps() -> None:
        first = readings

        async def swept() -> bool:
            return readings >= first + 10

        await async_wait_until(swept, seconds=60, what="the relay looks at its claims")

    async def is_deleted() -> bool:
        return any(one.sealed is None for one in store.claims("orders"))

    service = ClaimService(store, trio.CapacityLimiter(1), EventStream(), clock=read)
    clock.now = AT + 2 * 86_400
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await some_sweeps()
        clock.now = AT
        await some_sweeps()
        clock.now = AT + 2 * 86_400
        await some_sweeps()
        # Another claim of the same hybrid connection deletes nothing, either.
        store.add_claim(attrs.evolve(claim, id="2" * 32, created_at=clock.now, expires_at=clock.now + 86_400))
        assert claim in store.claims("orders")
        monkeypatch.setattr(_confirmed_time, "CONFIRM_SECONDS", 0.0)
        await async_wait_until(is_deleted, seconds=60, what="the content is deleted")
        nursery.cancel_scope.cancel()
    assert {one.id[0]: one.sealed for one in store.claims("orders")} == {"1": None, "2": b"sealed"}
