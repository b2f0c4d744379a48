"""When a session is no longer kept open."""

from __future__ import annotations

from functools import partial

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.client.ingress.readiness import keep_connected
from hybridrelay.errors import AuthorizationError, RelayIdentityError
from hybridrelay.mux import Session
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import ConnectionString, Secret

from ..strings import STRING
from .test_ports import FakeClient


class RefusedClient(FakeClient):
    """A client that every relay refuses, and whose key is changed some times while it waits for the answer."""

    def __init__(self, changes: int) -> None:
        super().__init__()
        self.string = STRING
        self.changes = changes
        self.tried: list[ConnectionString] = []

    @property
    def connection_string(self) -> ConnectionString:
        return self.string

    async def connect(self, *, patience: float | None = None) -> Session:
        self.tried.append(self.string)
        await trio.lowlevel.checkpoint()
        if self.changes:
            self.changes -= 1
            self.string = attrs.evolve(self.string, key=Secret(f"key-{self.changes}"))
        raise AuthorizationError("not this one", reason=Reason.KEY_REVOKED)


@pytest.mark.parametrize("changes", [0, 1, 2])
async def test_a_refusal_is_final_only_for_the_connection_string_in_use(nursery: trio.Nursery, changes: int) -> None:
    client = RefusedClient(changes)
    with pytest.raises(AuthorizationError):
        await nursery.start(partial(keep_connected, client))
    keys = [f"key-{number}" for number in reversed(range(changes))]
    assert [one.key.reveal() for one in client.tried] == [STRING.key.reveal(), *keys]


class ClientOfAnotherRelay(FakeClient):
    """A client that meets another certificate than that of its relay."""

    def __init__(self) -> None:
        super().__init__()
        self.has_tried_again = trio.Event()
        self.tries = 0

    @property
    def connection_string(self) -> ConnectionString:
        return STRING

    async def connect(self, *, patience: float | None = None) -> Session:
        await trio.lowlevel.checkpoint()
        self.tries += 1
        if self.tries > 1:
            self.has_tried_again.set()
        raise RelayIdentityError("another certificate")


async def test_another_certificate_is_final_only_at_the_start(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    client = ClientOfAnotherRelay()
    with pytest.raises(RelayIdentityError):
        await nursery.start(partial(keep_connected, client))
    assert client.tries == 1
    await nursery.start(partial(keep_connected, client, at_start=False))
    await client.has_tried_again.wait()
    nursery.cancel_scope.cancel()
