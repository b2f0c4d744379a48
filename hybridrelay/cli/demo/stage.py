"""The roles that the demo uses: relay, target and connector, on free ports of this machine."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import trio

from ..._nursery import FlatNursery
from ...administration.provisioning import provision
from ...connectivity import all_ports, discover
from ...connector import ConnectorConfig, run_connector
from ...events.log import logged_events
from ...management import ManagementTcp, TcpOptions, serve_management
from ...management.logins import Logins, TokenCredential, digest_of
from ...relay import Binding, Relay, RelayConfig, RelayInfo, SQLiteStore
from ...security import (
    ConnectionString,
    Endpoint,
    HostPort,
    ManagementRole,
    generate_management_token,
    load_or_create_relay_certificate,
    relay_pin,
)
from .resource import serve_resource

HOST = "127.0.0.1"
NAME = "demo"


@attrs.frozen
class Stage:
    """The running roles."""

    relay: RelayInfo
    target: HostPort
    #: The client's connection string.
    application: ConnectionString
    #: The URL of the dashboard.
    dashboard: str
    _logins: Logins
    _credential: TokenCredential

    def link_to_dashboard(self) -> str:
        """Return a URL with which a browser can log in to the dashboard once within five minutes."""
        code = secrets.token_urlsafe(24)
        self._logins.add_code(digest_of(code), self._credential, time.time())
        return f"{self.dashboard}login?code={code}"


@asynccontextmanager
async def open_stage(state_dir: Path) -> AsyncIterator[Stage]:
    """Run the roles during the block. An error in them or in the block is not wrapped in an exception group."""
    async with FlatNursery() as nursery:
        target = HostPort(HOST, await nursery.start(serve_resource))
        with SQLiteStore.open(state_dir) as store:
            now = time.time()
            pin = relay_pin(load_or_create_relay_certificate(state_dir, now=now))
            made = provision(NAME, target=target, endpoints=[Endpoint(HOST)], pins=(pin,), now=now)
            store.import_(made.record)
            token, _ = generate_management_token(NAME, ManagementRole.ADMIN, now=now)
            store.add_token(token)
        bindings = {name: (Binding(HOST, 0),) for name in all_ports(discover())}
        config = RelayConfig(state_dir=state_dir, bindings=bindings)
        relay, events = Relay(config), logged_events()
        info: RelayInfo = await nursery.start(relay.run)
        tcp, logins = ManagementTcp(TcpOptions(addresses=[(HOST, 0)]), authenticators=()), Logins()
        manage = partial(serve_management, state_dir, lambda: info, relay.live, tcp=tcp, events=events, logins=logins)
        await nursery.start(partial(manage, stop=trio.Event()))
        endpoints = (Endpoint(HOST, {name: bound[0].port for name, bound in info.bound.items()}),)
        connector = attrs.evolve(made.connector, endpoints=endpoints)
        await nursery.start(partial(run_connector, ConnectorConfig([connector])))
        application = attrs.evolve(made.application, endpoints=endpoints)
        credential = TokenCredential(token.id)
        yield Stage(info, target, application, f"http://{tcp.bound[0]}/", logins, credential)
        nursery.cancel_scope.cancel()
