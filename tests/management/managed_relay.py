"""A managed relay in memory, whose clock the test sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import attrs
import trio
import trio.testing

from hybridrelay.events import Event, EventStream, ManagementAuthenticationFailed
from hybridrelay.http import Service, serve_connection
from hybridrelay.management.callers import Caller
from hybridrelay.management.gate import Gate
from hybridrelay.management.managed import Managed
from hybridrelay.management.peers import Peer
from hybridrelay.management.plugins import Authenticator
from hybridrelay.management.rendering import render_failure
from hybridrelay.management.service import make_router
from hybridrelay.relay import MemoryStore, RelayInfo, Store
from hybridrelay.security import (
    ManagementRole,
    ManagementToken,
    Right,
    Rule,
    audience_for,
    generate_management_token,
    make_token,
)

from ..http.serving import Client
from .conftest import Api
from .live import FakeRelay

T = TypeVar("T")
NOW = 1_000_000.0


class Inline(Managed):
    """Uses the store without a thread, during which virtual time would pass."""

    async def read_store(self, function: Callable[[Store], T]) -> T:
        await trio.lowlevel.checkpoint()
        return function(self.store)

    async def change_store(self, function: Callable[[Store], T], *, caller: Caller | None = None) -> T:
        return await self.read_store(function)


@attrs.define
class Relay:
    """A managed relay whose clock the test sets."""

    nursery: trio.Nursery
    store: MemoryStore = attrs.field(factory=lambda: MemoryStore(lambda: NOW))
    events: list[Event] = attrs.field(factory=list)
    live: FakeRelay = attrs.field(factory=FakeRelay.with_one_of_each)
    now: float = NOW
    authenticators: list[tuple[str, Authenticator]] = attrs.field(factory=list)
    gate: Gate = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        stream = EventStream(self.events.append)
        self.managed = Inline(
            self.store, self.store, lambda: RelayInfo({}, ""), self.live, stream, clock=lambda: self.now,
            state_dir=Path("/srv/my relay"),
        )  # fmt: skip
        self.gate = Gate(self.managed, self.authenticators)
        self.store.create(
            "orders", ["relay.example.com"], [Rule.generate("all", Right), Rule.generate("in", [Right.LISTEN])]
        )
        self.store.create("other", ["relay.example.com"], [Rule.generate("all", Right)])

    managed: Managed = attrs.field(init=False)

    def connect(self, peer: Peer | None = None) -> Api:
        """A connection, by default from an address and without an identity of its own."""
        service = Service(router=make_router(self.managed, self.gate), render_failure=render_failure)
        ours, theirs = trio.testing.memory_stream_pair()
        known = Peer("192.0.2.1") if peer is None else peer

        async def serve() -> None:
            await serve_connection(theirs, service, peer=known)

        self.nursery.start_soon(serve)
        return Api(Client(ours), self.store, self.live, self.events, self.managed)

    def token(
        self, name: str = "ci", role: ManagementRole = ManagementRole.ADMIN, scope: str = ""
    ) -> tuple[ManagementToken, str]:
        """A token that is in the store, and its header."""
        token, text = generate_management_token(name, role, scope=scope, now=self.now)
        self.store.add_token(token)
        return token, f"Bearer {text.reveal()}"

    def signature(
        self, rule: str = "all", name: str = "orders", audience: str | None = None, seconds: float = 60
    ) -> str:
        """A SAS token."""
        key = self.store.rule(name, rule).primary
        assert key is not None
        return make_token(
            audience_for("relay.example.com", name) if audience is None else audience, rule, key, self.now + seconds
        )

    def failures(self) -> list[str]:
        """Why credentials were refused."""
        return [event.detail for event in self.events if isinstance(event, ManagementAuthenticationFailed)]
