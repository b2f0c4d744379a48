"""A program that embeds a connector and a client, and serves what they hold."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import trio

from hybridrelay import Connector, ConnectorConfig, open_client
from hybridrelay.monitoring import ClientsSource, ConnectorSource, StatusAddress, StatusSource, serve_status
from hybridrelay.security import Role

from .deployment import HOST, Deployment, echo, serve_target

ADDRESS = StatusAddress(None, HOST, 0)


async def ask(where: str, path: str) -> tuple[int, Any]:
    host, _, port = where.rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: {where}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join([piece async for piece in stream])
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


async def test_both_are_served(deployment: Deployment) -> None:
    published, nursery = deployment.publish(), deployment.nursery
    target = await serve_target(nursery, echo)
    connector = Connector(ConnectorConfig([deployment.string(published, Role.CONNECTOR, target)]))
    await nursery.start(connector.run)
    async with open_client(deployment.string(published, Role.APPLICATION)) as client:
        sources: list[StatusSource] = [
            ConnectorSource(connector, check_targets=True),
            ClientsSource(lambda: [client]),
        ]
        theirs, ours = [await nursery.start(partial(serve_status, ADDRESS, source)) for source in sources]
        assert (await ask(ours, "/readyz"))[0] == 200, "it has had no reason to connect"
        status, ready = await ask(theirs, "/readyz")
        assert (status, [one["name"] for one in ready["checks"]]) == (200, ["accepting", "registered", "target"])
        async with await client.open_stream() as stream:
            await stream.send_all(b"x")
            await stream.receive_some()
            for where, role in ((theirs, "connector"), (ours, "client")):
                _, found = await ask(where, "/v1/status")
                assert (found["role"], found["problems"]) == (role, [])
                assert found["streams"][0]["bytesToTarget"] == 1
