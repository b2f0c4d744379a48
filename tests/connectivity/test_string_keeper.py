"""What a running program has received for its connection string and cannot store is reported until it is stored."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.connectivity.new_keys import NO_FILE
from hybridrelay.connectivity.string_keeper import AGAIN_SECONDS, StringKeeper, keep_trying
from hybridrelay.events.base import Event
from hybridrelay.events.endpoint import StringKept, StringNotKept
from hybridrelay.events.stream import EventStream
from hybridrelay.security import ConnectionString, Endpoint, Role, Secret, create_authority

BEFORE = ConnectionString((Endpoint("relay.example"),), "application", Secret("old"), "orders")


def rolled(string: ConnectionString, key: str = "new") -> ConnectionString:
    return attrs.evolve(string, key=Secret(key))


def updated(string: ConnectionString) -> ConnectionString:
    return attrs.evolve(string, update_sequence=5)


@attrs.define
class Scene:
    """A program whose file can be written or not."""

    string: ConnectionString = BEFORE
    why: str = "read-only"
    file: ConnectionString = BEFORE
    events: list[Event] = attrs.field(factory=list)

    async def keep(self, before: ConnectionString, after: ConnectionString) -> str:
        await trio.lowlevel.checkpoint()
        if self.why:
            return self.why
        assert before == self.file
        self.file = after
        return ""

    def keeper(self, origin: ConnectionString | None = None) -> StringKeeper:
        return StringKeeper(
            lambda: self.string, self.keep, EventStream(self.events.append), changing=trio.Lock(), origin=origin
        )

    async def receive(self, keeper: StringKeeper, change: Callable[[ConnectionString], ConnectionString]) -> str:
        before, self.string = self.string, change(self.string)
        return await keeper(before, self.string)

    def take_events(self) -> list[Event]:
        taken, self.events[:] = list(self.events), []
        return taken


async def test_what_is_only_in_memory_is_reported_until_it_is_stored(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene()
    keeper = scene.keeper()
    nursery.start_soon(keep_trying, lambda: [keeper])
    assert await scene.receive(keeper, rolled) == "read-only"
    (event,) = scene.take_events()
    assert isinstance(event, StringNotKept)
    assert (event.connection, event.parts, event.detail) == ("orders", ("key",), "read-only")
    assert keeper.unkept is not None
    await trio.sleep(3 * AGAIN_SECONDS)
    assert scene.take_events() == []  # not again for the same reason
    scene.why = ""
    await trio.sleep(AGAIN_SECONDS)
    assert scene.take_events() == [StringKept(connection="orders", parts=("key",))]
    assert not keeper.unkept
    assert not keeper.origin
    assert scene.file == rolled(BEFORE)
    nursery.cancel_scope.cancel()


async def test_what_was_not_stored_is_stored_with_what_comes_later() -> None:
    scene = Scene()
    keeper = scene.keeper()
    await scene.receive(keeper, rolled)
    await scene.receive(keeper, updated)
    assert [event.parts for event in scene.take_events() if isinstance(event, StringNotKept)] == [
        ("key",),
        ("key", "update"),
    ]
    scene.why = ""
    assert await scene.receive(keeper, lambda string: rolled(string, "newer")) == ""
    assert scene.file == rolled(updated(BEFORE), "newer")
    assert scene.take_events() == [StringKept(connection="orders", parts=("key", "update"))]


async def test_another_reason_is_reported() -> None:
    scene = Scene()
    keeper = scene.keeper()
    await scene.receive(keeper, rolled)
    scene.why = "the disk is full"
    await keeper.try_again()
    assert [event.detail for event in scene.take_events() if isinstance(event, StringNotKept)] == [
        "read-only",
        "the disk is full",
    ]


async def test_somebody_writes_the_key_into_the_source() -> None:
    """The file is read again, or a program passes another text."""
    scene = Scene()
    keeper = scene.keeper()
    await scene.receive(keeper, lambda string: updated(rolled(string)))
    scene.take_events()
    scene.string = updated(rolled(BEFORE))
    keeper.given(scene.string)
    assert scene.take_events() == [StringKept(connection="orders", parts=("key", "update"))]
    keeper.given(rolled(BEFORE, "third"))
    assert scene.take_events() == []


async def test_a_renewed_identity_is_reported_until_it_is_stored_whatever_key_the_source_has() -> None:
    """A running program keeps its identity when its source changes: the source still has the earlier one."""
    authority = create_authority("orders", now=0)
    earlier, renewed = (authority.issue(Role.APPLICATION, "shop", now=0) for _ in range(2))
    before = attrs.evolve(BEFORE, identity=earlier, authority=authority.certificate)
    scene = Scene(before, file=before)
    keeper = scene.keeper()
    await scene.receive(keeper, lambda string: attrs.evolve(rolled(string), identity=renewed))
    assert [event.parts for event in scene.take_events() if isinstance(event, StringNotKept)] == [("key", "identity")]
    scene.file = rolled(before)
    keeper.given(scene.string)
    (event,) = scene.take_events()
    assert isinstance(event, StringNotKept)
    assert (event.parts, event.detail) == (("identity",), "read-only")
    scene.why = ""
    await keeper.try_again()
    assert scene.take_events() == [StringKept(connection="orders", parts=("identity",))]
    assert scene.file == scene.string


async def test_a_program_without_a_file() -> None:
    scene = Scene()
    keeper = StringKeeper(lambda: scene.string, None, EventStream(scene.events.append), changing=trio.Lock())
    assert await scene.receive(keeper, rolled) == NO_FILE
    assert keeper.unkept is not None
    assert keeper.unkept.detail == NO_FILE


async def test_a_client_that_takes_the_place_of_another_one_knows_what_is_not_stored() -> None:
    scene = Scene(string=updated(rolled(BEFORE)))
    keeper = scene.keeper(origin=BEFORE)
    assert keeper.unkept is not None
    assert keeper.unkept.parts == ("key", "update")
    scene.why = ""
    await keeper.try_again()
    assert not keeper.unkept
    assert scene.file == scene.string


@pytest.mark.parametrize("origin", [None, BEFORE])
async def test_nothing_is_reported_if_nothing_differs(origin: ConnectionString | None) -> None:
    scene = Scene()
    keeper = scene.keeper(origin=origin)
    await keeper.try_again()
    assert keeper.unkept is None
    assert scene.events == []
