"""When an identity is renewed, and what happens if that fails."""

from __future__ import annotations

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.client.renewal import Renewer, is_renewable, renew_at, retry_wait
from hybridrelay.errors import HybridRelayError, PeerIdentityError, RendezvousError
from hybridrelay.events import Event, EventStream, IdentityNotRenewed, IdentityRenewed
from hybridrelay.protocol.issuing import Issued
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import (
    ConnectionString,
    Endpoint,
    Identity,
    Role,
    Secret,
    create_authority,
    create_issuer,
    make_request,
    new_private_key,
    parse_request_untrusted,
)

DAY = 86_400.0
NOW = 1_800_000_000.0
AUTHORITY = create_authority("orders", now=NOW)
ISSUER = create_issuer(AUTHORITY, now=NOW)


def issue(key: Secret, *, now: float = NOW, label: str = "billing") -> Issued:
    return ISSUER.sign("orders", label, parse_request_untrusted(make_request(key)), now=now)


def identity() -> Identity:
    key = new_private_key()
    issued = issue(key)
    return Identity(issued.certificate, key, issued.issuer)


STRING = ConnectionString(
    endpoints=(Endpoint("relay.example.com"),), key_name="a", key=Secret("k"), entity_path="orders",
    identity=identity(), authority=AUTHORITY.certificate,
)  # fmt: skip


def test_an_identity_is_due_at_two_thirds_of_its_life() -> None:
    assert renew_at(identity().details) == pytest.approx(NOW + 60 * DAY, abs=2)


def test_an_identity_is_due_before_its_issuer_ends() -> None:
    ended = create_issuer(AUTHORITY, now=NOW, valid_years=30 / 365)
    due = renew_at(attrs.evolve(identity(), issuer=ended.certificate).details)
    assert due == pytest.approx(NOW + (ended.not_after - NOW) * 2 / 3, abs=2)


@pytest.mark.parametrize(
    ("one", "renewable"),
    [
        (identity(), True),
        (AUTHORITY.issue(Role.APPLICATION, "a", now=NOW), False),
        (AUTHORITY.issue(Role.CONNECTOR, "a", now=NOW), False),
        (attrs.evolve(AUTHORITY.issue(Role.CONNECTOR, "a", now=NOW), issuer=ISSUER.certificate), False),
    ],
)
def test_what_is_renewed(one: Identity, renewable: bool) -> None:
    assert is_renewable(one) is renewable


def test_failures_are_retried_with_a_bound() -> None:
    waits = [retry_wait(failures, 0.999) for failures in range(1, 40)]
    assert waits[:3] == pytest.approx([60, 120, 240], rel=0.01)
    assert max(waits) <= 6 * 3600
    assert retry_wait(1, 0.0) == 30.0
    assert retry_wait(10_000, 0.0) == 3 * 3600


@attrs.define
class Machine:
    """A machine whose wall clock is Trio's, and connectors that answer as told."""

    answers: list[HybridRelayError | str] = attrs.field(factory=list)
    why_not_kept: str = ""
    asked_at: list[float] = attrs.field(factory=list)
    keys: list[Secret] = attrs.field(factory=list)
    events: list[Event] = attrs.field(factory=list)
    used: list[tuple[ConnectionString, ConnectionString]] = attrs.field(factory=list)
    kept: list[ConnectionString] = attrs.field(factory=list)
    string: ConnectionString = STRING
    #: Why the renewed identity cannot be used, at one attempt after the other.
    not_usable: list[HybridRelayError] = attrs.field(factory=list)
    #: What another program has stored.
    stored: Identity | None = None

    def clock(self) -> float:
        return NOW + trio.current_time()

    async def request(self, key: Secret) -> Issued:
        self.asked_at.append(trio.current_time())
        self.keys.append(key)
        await trio.lowlevel.checkpoint()
        answer = self.answers.pop(0) if self.answers else "billing"
        if isinstance(answer, HybridRelayError):
            raise answer
        return issue(key, now=self.clock(), label=answer)

    async def keep(self, before: ConnectionString, after: ConnectionString) -> str:
        await trio.lowlevel.checkpoint()
        if not self.why_not_kept:
            self.kept.append(after)
        return self.why_not_kept

    async def use(self, before: ConnectionString, after: ConnectionString) -> None:
        await trio.lowlevel.checkpoint()
        if self.not_usable:
            raise self.not_usable.pop(0)
        self.used.append((before, after))
        self.string = after

    async def renewed_elsewhere(self, string: ConnectionString) -> Identity | None:
        await trio.lowlevel.checkpoint()
        assert string == self.string
        return self.stored

    def renewer(self, *, keeps: bool = True) -> Renewer:
        return Renewer(
            lambda: self.string,
            self.request,
            self.keep if keeps else None,
            self.use,
            EventStream(self.events.append),
            renewed_elsewhere=self.renewed_elsewhere,
            clock=self.clock,
            chance=lambda: 0.5,
        )


async def test_it_is_renewed_once_it_is_due(autojump_clock: trio.testing.MockClock) -> None:
    machine = Machine()
    await machine.renewer().run()
    (at,) = machine.asked_at
    assert 60 * DAY <= at <= 61 * DAY
    ((before, after),) = machine.used
    assert before == STRING
    assert after.identity is not None
    assert (after.identity.label, after.identity.private_key) == ("billing", machine.keys[0])
    assert attrs.evolve(after, identity=before.identity) == before
    assert machine.kept == [after]
    (event,) = machine.events
    assert isinstance(event, IdentityRenewed)
    assert (event.serial, event.kept, event.detail) == (after.identity.serial, True, "")
    assert event.not_after == pytest.approx(NOW + at + 90 * DAY, abs=2)


async def test_failures_are_visible_and_the_key_stays_the_same(autojump_clock: trio.testing.MockClock) -> None:
    machine = Machine(
        [
            RendezvousError("no connector is listening", reason=Reason.NO_LISTENER, remedy="start one"),
            PeerIdentityError("not now", reason=Reason.LIMIT),
            "another label",
        ]
    )
    renewer = machine.renewer()
    await renewer.run()
    assert len(machine.asked_at) == 4
    assert len(set(machine.keys)) == 1
    failures = [event for event in machine.events if isinstance(event, IdentityNotRenewed)]
    assert [event.reason for event in failures][:2] == [Reason.NO_LISTENER, Reason.LIMIT]
    assert "another name" in failures[2].detail
    assert failures[0].remedy == "start one"
    assert failures[0].retry_seconds == 45.0
    assert renewer.failure is None
    assert len(machine.used) == 1


async def test_one_that_has_expired_is_tried_all_the_same(autojump_clock: trio.testing.MockClock) -> None:
    error = PeerIdentityError("expired", reason=Reason.IDENTITY_EXPIRED)
    machine = Machine([error] * 300)
    renewer = machine.renewer()
    with trio.move_on_after(100 * DAY):
        await renewer.run()
    assert renewer.failure is error
    assert 150 <= len(machine.asked_at) <= 300


@pytest.mark.parametrize("keeps", [True, False])
async def test_what_cannot_be_stored_is_used_from_memory(autojump_clock: trio.testing.MockClock, keeps: bool) -> None:
    machine = Machine(why_not_kept="f cannot be written: Read-only file system")
    await machine.renewer(keeps=keeps).run()
    (event,) = machine.events
    assert isinstance(event, IdentityRenewed)
    assert not event.kept
    assert event.detail == (
        machine.why_not_kept if keeps else "this program has no file in which to store the connection string"
    )
    assert len(machine.used) == 1


async def test_one_of_the_authority_is_not_renewed(autojump_clock: trio.testing.MockClock) -> None:
    machine = Machine(string=attrs.evolve(STRING, identity=AUTHORITY.issue(Role.APPLICATION, "a", now=NOW)))
    await machine.renewer().run()
    assert not machine.asked_at


async def test_what_another_program_has_stored_is_used_and_nobody_is_asked(
    autojump_clock: trio.testing.MockClock,
) -> None:
    stored = identity()
    machine = Machine(stored=stored)
    await machine.renewer().run()
    assert not machine.asked_at
    ((_, after),) = machine.used
    assert after.identity == stored
    (event,) = machine.events
    assert isinstance(event, IdentityRenewed)
    assert (event.serial, event.kept) == (stored.serial, True)
    assert "another program has renewed it" in event.detail


async def test_one_that_cannot_be_used_yet_is_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    """It was stored, so no further one is requested, and the failure is visible meanwhile."""
    machine = Machine(not_usable=[RendezvousError("no session", reason=Reason.NO_LISTENER)] * 3)
    renewer = machine.renewer()
    with trio.move_on_after(61 * DAY) as scope:
        await renewer.run()
    assert not scope.cancelled_caught
    assert len(machine.asked_at) == len(machine.kept) == len(machine.used) == 1
    failures = [event for event in machine.events if isinstance(event, IdentityNotRenewed)]
    assert [failure.retry_seconds for failure in failures] == [45.0, 90.0, 180.0]
    assert all(failure.detail == "the renewed identity cannot be used yet: no session" for failure in failures)
    assert renewer.failure is None


async def test_it_is_renewed_again_and_again(autojump_clock: trio.testing.MockClock) -> None:
    machine = Machine()
    renewer = machine.renewer()
    for _ in range(4):
        await renewer.run()
    assert [at / DAY for at in machine.asked_at] == pytest.approx([60.45, 120.9, 181.35, 241.8], abs=0.1)
    assert len({after.identity for _, after in machine.used}) == 4
