"""When a connector with several relays ends: earlier refusals do not count until the relay has repeated them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.connectivity import RelayEndpoint
from hybridrelay.connector import connector as connector_module
from hybridrelay.connector.config import ConnectorConfig
from hybridrelay.connector.connector import Connector
from hybridrelay.connector.registration.entry import ASK_AGAIN_SECONDS
from hybridrelay.errors import AuthorizationError, RelayUnreachable
from hybridrelay.protocol import control
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import Endpoint, Secret

from .fakes import FakeRelay, published, without_jitter

HOSTS = ("a.example", "b.example")


class Scene:
    """A connector that is refused by the first of its relays, and serves at the second."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, names: Sequence[str] = ("one",), hosts: Sequence[str] = HOSTS
    ) -> None:
        self.a, self.b = self.relays = [FakeRelay(host, host) for host in HOSTS]
        by_host = dict(zip(HOSTS, self.relays, strict=True))

        def link(endpoint: RelayEndpoint, *_: object, **__: object) -> FakeRelay:
            return by_host[endpoint.host]

        async def watch_nothing(changed: Callable[[str], None]) -> None:
            await trio.sleep_forever()

        monkeypatch.setattr(connector_module, "RelayLink", link)
        monkeypatch.setattr(connector_module, "watch_network", watch_nothing)
        endpoints = tuple(map(Endpoint, hosts))
        strings = [attrs.evolve(published(name).string, endpoints=endpoints) for name in names]
        self.changes: list[Callable[[Connector], object]] = []
        self.connector = Connector(ConnectorConfig(strings), clock=trio.current_time, last_look=self._last_look)
        self.error: Exception | None = None
        self.ended = trio.Event()
        self.a.answers["one"] = Reason.UNKNOWN_CONNECTION

    async def run(self) -> None:
        try:
            await self.connector.run()
        except AuthorizationError as exc:
            self.error = exc
            self.ended.set()

    @asynccontextmanager
    async def _last_look(self) -> AsyncIterator[None]:
        await trio.lowlevel.checkpoint()
        if self.changes:
            self.changes.pop()(self.connector)
        yield

    def revoke_at_b(self) -> None:
        self.b.answers["one"] = Reason.KEY_REVOKED
        self.b.control.said.send_nowait(control.Ended("one", Reason.KEY_REVOKED))


@pytest.fixture
async def scene(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Scene:
    without_jitter(monkeypatch)
    scene = Scene(monkeypatch)
    nursery.start_soon(scene.run)
    return scene


async def test_what_was_mended_meanwhile_is_found_before_it_ends(
    autojump_clock: trio.testing.MockClock, scene: Scene, nursery: trio.Nursery
) -> None:
    await trio.sleep(ASK_AGAIN_SECONDS / 2)
    assert len(scene.a.asked) == 1
    del scene.a.answers["one"]
    scene.revoke_at_b()
    await trio.sleep(ASK_AGAIN_SECONDS / 4)
    assert len(scene.a.asked) == 2
    assert not scene.ended.is_set()
    nursery.cancel_scope.cancel()


async def test_it_ends_soon_where_nothing_was_mended(
    autojump_clock: trio.testing.MockClock, scene: Scene, nursery: trio.Nursery
) -> None:
    await trio.sleep(ASK_AGAIN_SECONDS / 2)
    scene.revoke_at_b()
    with trio.fail_after(5):
        await scene.ended.wait()
    assert len(scene.a.asked) == 2
    assert all(host in str(scene.error) for host in HOSTS)
    nursery.cancel_scope.cancel()


async def test_it_ends_at_once_where_all_have_refused_just_now(
    autojump_clock: trio.testing.MockClock, scene: Scene, nursery: trio.Nursery
) -> None:
    scene.b.answers["one"] = Reason.WRONG_KEY
    with trio.fail_after(1):
        await scene.ended.wait()
    assert len(scene.a.asked) == len(scene.b.asked) == 1
    nursery.cancel_scope.cancel()


async def test_a_relay_that_cannot_be_asked_is_waited_for(
    autojump_clock: trio.testing.MockClock, scene: Scene, nursery: trio.Nursery
) -> None:
    """There are pauses between the attempts, as for any unreachable relay."""
    await trio.sleep(ASK_AGAIN_SECONDS / 2)
    scene.a.error = RelayUnreachable("down")
    scene.revoke_at_b()
    await trio.sleep(ASK_AGAIN_SECONDS)
    assert not scene.ended.is_set()
    assert 10 < len(scene.a.opened) < 150
    assert len(scene.b.opened) < 5
    # Then everything is asked again: the other relay's answer is old by now.
    scene.a.error = None
    with trio.fail_after(60):
        await scene.ended.wait()
    nursery.cancel_scope.cancel()


async def test_what_was_mended_at_each_in_turn_is_found(
    autojump_clock: trio.testing.MockClock, scene: Scene, nursery: trio.Nursery
) -> None:
    await trio.sleep(ASK_AGAIN_SECONDS / 2)
    del scene.a.answers["one"]
    scene.revoke_at_b()
    await trio.sleep(ASK_AGAIN_SECONDS / 2)
    del scene.b.answers["one"]
    scene.a.answers["one"] = Reason.KEY_REVOKED
    scene.a.control.said.send_nowait(control.Ended("one", Reason.KEY_REVOKED))
    await trio.sleep(5)
    assert len(scene.b.asked) == 2
    assert not scene.ended.is_set()
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("mended", [True, False], ids=["mended", "not-mended"])
async def test_another_string_is_asked_for_over_the_same_control_channel(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, mended: bool
) -> None:
    scene = Scene(monkeypatch, names=("one", "two"), hosts=HOSTS[:1])
    nursery.start_soon(scene.run)
    await trio.sleep(ASK_AGAIN_SECONDS / 2)
    if mended:
        del scene.a.answers["one"]
    scene.a.answers["two"] = Reason.KEY_REVOKED
    scene.a.control.said.send_nowait(control.Ended("two", Reason.KEY_REVOKED))
    await trio.sleep(5)
    assert len(scene.a.asked_for("one")) == 2
    assert len(scene.a.opened) == 1
    assert scene.ended.is_set() is not mended
    nursery.cancel_scope.cancel()


ANOTHER_KEY = attrs.evolve(published("one").string, key=Secret("k2"), endpoints=tuple(map(Endpoint, HOSTS)))


@pytest.mark.parametrize(
    "change",
    [
        lambda connector: connector.update(0, ANOTHER_KEY),
        lambda connector: connector.publish(ANOTHER_KEY, instead_of=0),
        lambda connector: connector.withdraw(0, grace=0),
    ],
    ids=["update", "replacement", "withdrawal"],
)
async def test_what_is_changed_by_the_last_look_counts(
    autojump_clock: trio.testing.MockClock,
    scene: Scene,
    nursery: trio.Nursery,
    change: Callable[[Connector], object],
) -> None:
    """With another key, another string in its place, or nothing, the connector goes on."""
    await trio.sleep(2 * ASK_AGAIN_SECONDS)

    def mend(connector: Connector) -> None:
        scene.a.answers.clear()
        scene.b.answers.clear()
        change(connector)

    scene.changes.append(mend)
    scene.revoke_at_b()
    await trio.sleep(ASK_AGAIN_SECONDS)
    assert not scene.changes
    assert not scene.ended.is_set()
    nursery.cancel_scope.cancel()


async def test_a_changed_string_that_is_refused_as_well_ends_it(
    autojump_clock: trio.testing.MockClock, scene: Scene, nursery: trio.Nursery
) -> None:
    await trio.sleep(2 * ASK_AGAIN_SECONDS)
    scene.changes.append(lambda connector: connector.publish(ANOTHER_KEY, instead_of=0))
    scene.revoke_at_b()
    with trio.fail_after(10):
        await scene.ended.wait()
    assert not scene.changes
    nursery.cancel_scope.cancel()
