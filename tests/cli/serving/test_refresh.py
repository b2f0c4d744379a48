"""SIGHUP does not undo what relays have given a program that cannot write its file."""

from __future__ import annotations

import time

import attrs
import trio

from hybridrelay.administration.provisioning import provision
from hybridrelay.cli.entries import Entry
from hybridrelay.cli.serving.connector import ConnectorService
from hybridrelay.cli.serving.plan import Wanted
from hybridrelay.client import ClientConfig, open_client
from hybridrelay.connector import Connector, ConnectorConfig
from hybridrelay.security import Endpoint, HostPort, Secret

#: A relay that is not there: nothing needs one.
MADE = provision("orders", target=HostPort("db", 1), endpoints=[Endpoint("192.0.2.1")], now=time.time())


def test_a_connector_keeps_a_key_and_an_update_in_memory() -> None:
    connector = Connector(ConnectorConfig([MADE.connector]))
    entry = Entry("-", ("-", 0))
    service = ConnectorService(connector, [Wanted(entry, MADE.connector)], grace=0)
    given = attrs.evolve(MADE.connector, key=Secret("rolled"), target=HostPort("db2", 1), update_sequence=7)
    connector.update(0, given)
    service.refresh([entry.key])
    (published,) = connector._published.values()
    assert published.string == given


async def test_a_client_does_as_well() -> None:
    given = attrs.evolve(MADE.application, key=Secret("rolled"), update_sequence=7)
    with trio.fail_after(60):
        async with open_client(ClientConfig(MADE.application)) as client:
            client.update(given)
            client.refresh()
            assert client.connection_string == given
