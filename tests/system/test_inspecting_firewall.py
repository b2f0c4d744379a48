"""A firewall lets the probe pass, and rejects TLS on the data port: another route is used."""

from __future__ import annotations

import logging

import pytest
import trio

from hybridrelay.abc import Dialer
from hybridrelay.connectivity.dialing import dial_directly
from hybridrelay.protocol.preamble import PREAMBLE_SIZE, STATUS_SIZE
from hybridrelay.security import Role
from hybridrelay.streams.sockets import abort_stream

from ..waiting import patience
from .deployment import Deployment, echo, serve_target

#: The first byte of a TLS record with a handshake message.
_HANDSHAKE = 22


class Firewall:
    """Between a program and the relay's data port: a TCP proxy that inspects the bytes behind preamble and status."""

    def __init__(self, relay: int) -> None:
        self._relay = relay
        self.rejected = 0

    async def serve(self, near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream("127.0.0.1", self._relay)
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_on, near, far, PREAMBLE_SIZE, nursery.cancel_scope)
            nursery.start_soon(self._pass_on, far, near, STATUS_SIZE, nursery.cancel_scope)

    async def _pass_on(
        self, source: trio.SocketStream, sink: trio.SocketStream, begins: int, scope: trio.CancelScope
    ) -> None:
        passed = 0
        try:
            while data := await source.receive_some():
                if passed <= begins < passed + len(data) and data[begins - passed] == _HANDSHAKE:
                    self.rejected += 1
                    await abort_stream(source)
                    await abort_stream(sink)
                    break
                passed += len(data)
                await sink.send_all(data)
            else:
                await sink.send_eof()
                return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


@pytest.mark.parametrize("behind", [Role.CONNECTOR, Role.APPLICATION])
async def test_the_program_behind_it_uses_another_route(
    behind: Role, deployment: Deployment, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hybridrelay.events")
    number = deployment.ports["data"]
    assert number is not None
    firewall = Firewall(number)
    listeners = await nursery.start(trio.serve_tcp, firewall.serve, 0)
    proxied: int = listeners[0].socket.getsockname()[1]

    async def dial(host: str, port: int) -> trio.SocketStream:
        return await dial_directly(host, proxied if port == number else port)

    dialers = {behind: Dialer(dial)}
    published = deployment.publish()
    target = await serve_target(nursery, echo)
    connector, application = (
        deployment.string(published, role, target) if role is Role.CONNECTOR else deployment.string(published, role)
        for role in (Role.CONNECTOR, Role.APPLICATION)
    )
    await deployment.connector(connector, dialer=dialers.get(Role.CONNECTOR, Dialer(dial_directly)))
    with trio.fail_after(patience(30)):
        client_dialer = dialers.get(Role.APPLICATION, Dialer(dial_directly))
        async with deployment.client(application, dialer=client_dialer, open_patience=60.0) as client:
            stream = await client.open_stream()
            await stream.send_all(b"through")
            assert await stream.receive_some() == b"through"
            await stream.aclose()
            assert client.route == ("wss" if behind is Role.APPLICATION else "tcp")
    assert firewall.rejected >= 2, "a data channel, and the thorough check"
    (rejected,) = [one.getMessage() for one in caplog.records if vars(one).get("event") == "route.rejected"]
    assert "route=tcp used=wss" in rejected
    nursery.cancel_scope.cancel()
