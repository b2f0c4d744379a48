"""When a connector has started: it does not wait for ever for hybrid connections that cannot be registered yet."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from hybridrelay.connector.all_registrations import START_SECONDS
from hybridrelay.protocol.reasons import Reason

from .fakes import without_jitter
from .test_refused_everywhere import Scene


@pytest.mark.parametrize(
    ("answers", "seconds"),
    [
        ({}, 0.0),
        ({"two": Reason.KEY_REVOKED}, 0.0),
        ({"two": Reason.CONNECTION_DISABLED}, START_SECONDS),
    ],
)
async def test_a_connector_starts_if_one_hybrid_connection_is_registered(
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    answers: dict[str, Reason],
    seconds: float,
) -> None:
    without_jitter(monkeypatch)
    scene = Scene(monkeypatch, names=("one", "two"), hosts=("a.example",))
    scene.a.answers.clear()
    scene.a.answers.update(answers)
    began = trio.current_time()
    await nursery.start(scene.connector.run)
    assert began + seconds <= trio.current_time() < began + seconds + 1
    nursery.cancel_scope.cancel()


async def test_a_connector_that_serves_nothing_has_not_started(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_jitter(monkeypatch)
    scene = Scene(monkeypatch, names=("one", "two"), hosts=("a.example",))
    scene.a.answers.clear()
    scene.a.answers.update(dict.fromkeys(("one", "two"), Reason.CONNECTION_DISABLED))
    began = trio.current_time()

    async def enable() -> None:
        await trio.sleep(10 * START_SECONDS)
        del scene.a.answers["one"]

    nursery.start_soon(enable)
    await nursery.start(scene.connector.run)
    assert trio.current_time() >= began + 10 * START_SECONDS
    nursery.cancel_scope.cancel()
