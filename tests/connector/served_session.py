"""The session of an application, and the connector that serves its streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from hybridrelay.connectivity.counters import EndpointCounters
from hybridrelay.connector.audit_logger import AuditLogger
from hybridrelay.connector.serving import StreamService
from hybridrelay.connector.shares import Shares
from hybridrelay.connector.stream_events import Origin
from hybridrelay.events import Event, EventStream
from hybridrelay.mux import Session, open_bridges
from hybridrelay.policy import Policy
from hybridrelay.security import PeerIdentity, Role, Target

from .fakes import published

PEER = PeerIdentity("orders", Role.APPLICATION, "shop", "0A", 4e9)


class ServedSession:
    """Both ends of a session, and the service for the streams of one application.

    Args:
        client, server: the ends of the session.
        target: the target of the hybrid connection.
        policy: the policy of the connector, which a test may change.
        clock: the clock of the service.
        options: further arguments of `StreamService`.
    """

    def __init__(
        self,
        client: Session,
        server: Session,
        target: Target,
        policy: Policy,
        clock: Callable[[], float],
        **options: Any,
    ) -> None:
        self.client = client
        self.server = server
        self.published = published("orders", target=target)
        self.policy = policy
        self.origin = Origin(self.published, PEER, "5e55", "tcp at relay.example", "192.0.2.7")
        self.events: list[Event] = []
        self.counters = EndpointCounters()
        stream = EventStream(AuditLogger(), self.events.append)
        self.shares = Shares()
        self.service = StreamService(lambda: self.policy, self.shares, stream, self.counters, clock=clock, **options)
        self.scope = trio.CancelScope()
        self.over = trio.Event()

    async def serve(self) -> None:
        """Serve the offers of the session until `scope` is cancelled or the session ends. Sets `over`."""
        with self.scope:
            async with open_bridges() as bridges, trio.open_nursery() as nursery:
                async for offer in self.server.offers:
                    nursery.start_soon(self.service.serve, offer, self.origin, bridges)
        self.over.set()
