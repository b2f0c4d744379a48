"""The roles that the demo uses: relay, resource and connector, on free ports of this machine."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs

from ..._nursery import FlatNursery
from ...administration.provisioning import provision
from ...connectivity import all_ports, discover
from ...connector import ConnectorConfig, run_connector
from ...relay import Binding, RelayConfig, RelayInfo, SQLiteStore, run_relay
from ...security import ConnectionString, Endpoint, HostPort, load_or_create_relay_certificate, relay_pin
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
        bindings = {name: (Binding(HOST, 0),) for name in all_ports(discover())}
        config = RelayConfig(state_dir=state_dir, bindings=bindings)
        relay: RelayInfo = await nursery.start(partial(run_relay, config))
        endpoints = (Endpoint(HOST, {name: bound[0].port for name, bound in relay.bound.items()}),)
        connector = attrs.evolve(made.connector, endpoints=endpoints)
        await nursery.start(partial(run_connector, ConnectorConfig([connector])))
        yield Stage(relay, target, attrs.evolve(made.application, endpoints=endpoints))
        nursery.cancel_scope.cancel()
