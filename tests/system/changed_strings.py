"""What the tests of changed connection strings share: a deployment whose keys change, and streams that go on."""

from __future__ import annotations

import time
from typing import ClassVar

import attrs
import pytest
import trio

from hybridrelay.errors import AuthorizationError
from hybridrelay.mux import MuxStream
from hybridrelay.relay import SQLiteStore
from hybridrelay.security import ConnectionString, KeySlot, Role, Rule, create_authority

from ..waiting import async_wait_until
from .deployment import Deployment, Published

SECONDS = 30


@attrs.frozen
class ChangingScene:
    """A hybrid connection, and the connection string of the side whose keys change."""

    #: The name of that side's rule.
    rule_name: ClassVar[str]

    deployment: Deployment
    published: Published
    string: ConnectionString

    @property
    def rule(self) -> Rule:
        with SQLiteStore.open(self.deployment.state_dir) as registry:
            return registry.rule("db", self.rule_name)

    def regenerate(self, slot: KeySlot) -> None:
        with SQLiteStore.open(self.deployment.state_dir) as registry:
            registry.regenerate_key("db", self.rule_name, slot)

    def revoke(self, slot: KeySlot) -> None:
        with SQLiteStore.open(self.deployment.state_dir) as registry:
            registry.revoke_key("db", self.rule_name, slot)

    async def relay_has_noticed(self) -> None:
        """Wait until the relay has acted on all changes of its registry. A name unknown to it makes it look."""
        unknown = Published("unknown", create_authority("unknown", now=time.time()), self.published.rules)
        async with self.deployment.client(self.deployment.string(unknown, Role.APPLICATION)) as client:
            with pytest.raises(AuthorizationError):
                await client.connect()


async def said(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Wait until the log has a text."""

    async def is_said() -> bool:
        return text in caplog.text

    await async_wait_until(is_said, seconds=SECONDS, what=text)


async def answers(stream: MuxStream) -> None:
    """Check that the target answers on a stream."""
    with trio.fail_after(SECONDS):
        await stream.send_all(b"x" * 1000)
        received = 0
        while received < 1000:
            block = await stream.receive_some()
            assert block
            received += len(block)
