"""A relay, connectors and targets in the Trio run of a test, and the background thread of the process."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay.client.embedding import background
from hybridrelay.security import ConnectionString, Role

from ...system.deployment import Deployment, Published, deploy, echo, serve_target


def stop_background() -> None:
    """Stop the background thread, if there is one."""
    running = background._background
    if running is not None and running.is_usable:
        running.stop()
        assert not running.is_usable, "the background thread has not stopped"


@pytest.fixture(autouse=True)
def own_background_thread() -> Iterator[None]:
    """Let each test have a background thread of its own, which ends with it."""
    yield
    stop_background()


@attrs.define
class Site:
    """A deployment, with functions to publish targets in it."""

    deployment: Deployment
    #: What the test has published last.
    published: Published | None = None

    async def publish(
        self, handler: Callable[[trio.SocketStream], Awaitable[None]] = echo, name: str = "db"
    ) -> ConnectionString:
        """Publish a target, and return the application's connection string."""
        self.published = published = self.deployment.publish(name)
        target = await serve_target(self.deployment.nursery, handler)
        await self.deployment.connector(self.deployment.string(published, Role.CONNECTOR, target))
        return self.deployment.string(published, Role.APPLICATION)


@pytest.fixture
async def site(nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[Site]:
    """A relay that runs until the test ends."""
    if sys.platform == "win32":
        pytest.skip("the relay runs on Linux")
    yield Site(await deploy(nursery, tmp_path / "state"))
    await trio.to_thread.run_sync(stop_background)  # before its relay ends
    nursery.cancel_scope.cancel()
