"""A relay, hybrid connections, connectors and clients in one process, on free ports of the loopback interface."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TypedDict, Unpack

import attrs
import trio

from hybridrelay.abc import Dialer
from hybridrelay.client import Client, ClientConfig, open_client
from hybridrelay.connector import ConnectorConfig, InstanceFile, Policy, PolicyFile, run_connector
from hybridrelay.mux import Budget
from hybridrelay.relay import Binding, RelayConfig, RelayInfo, SQLiteStore, run_relay
from hybridrelay.security import (
    Authority,
    ConnectionString,
    Endpoint,
    HostPort,
    Identity,
    Right,
    Role,
    Rule,
    Secret,
    Target,
    create_authority,
)

from ..deployments import keep_port

HOST = "127.0.0.1"
PORTS = ("probe", "control", "data", "http", "https")


class StringChanges(TypedDict, total=False):
    """Fields of a connection string that tests replace."""

    endpoints: tuple[Endpoint, ...]
    key: Secret
    entity_path: str
    identity: Identity
    relay_pins: tuple[str, ...]


class Options(TypedDict, total=False):
    """Options of connectors and clients."""

    mode: str
    dialer: Dialer
    resume_deadline: float
    upgrade_interval: float


class ConnectorOptions(Options, total=False):
    """Of `ConnectorConfig`."""

    policy: Policy | PolicyFile
    instance_file: InstanceFile


class ClientOptions(Options, total=False):
    """Of `ClientConfig`."""

    open_patience: float
    budget: Budget


@attrs.define
class Published:
    """One hybrid connection as its administrator has it."""

    name: str
    authority: Authority
    rules: tuple[Rule, ...]


@attrs.define
class Deployment:
    """What the tests start things with. Everything runs in `nursery`."""

    nursery: trio.Nursery
    state_dir: Path
    info: RelayInfo
    #: Cancel it to kill the relay.
    scope: trio.CancelScope
    #: Set it to stop the relay.
    stop: trio.Event = attrs.field(factory=trio.Event)
    host: str = HOST
    relay_ended: trio.Event = attrs.field(factory=trio.Event)

    async def kill_relay(self) -> None:
        """Cancel the relay. On return its ports and its state directory are free."""
        self.scope.cancel()
        await self.relay_ended.wait()

    @property
    def ports(self) -> dict[str, int | None]:
        return {name: self.info.bound[name][0].port if name in self.info.bound else None for name in PORTS}

    def publish(self, name: str = "db") -> Published:
        """Create a hybrid connection. A running relay knows it within a second."""
        rules = (Rule.generate("listener", [Right.LISTEN]), Rule.generate("sender", [Right.SEND]))
        with SQLiteStore.open(self.state_dir) as registry:
            registry.create(name, [HOST], rules)
        return Published(name, create_authority(name, now=time.time()), rules)

    async def add_relay(self, published: Published, state_dir: Path) -> Deployment:
        """Start a second relay of a hybrid connection, which is known as ``localhost``."""
        second = await deploy(self.nursery, state_dir)
        hosts = (HOST, "localhost")
        with SQLiteStore.open(second.state_dir) as registry:
            registry.create(published.name, hosts, published.rules)
        with SQLiteStore.open(self.state_dir) as registry:
            registry.change(published.name, hosts=hosts)
        return second

    def string(
        self,
        published: Published,
        role: Role,
        target: Target | None = None,
        *,
        label: str = "lab",
        host: str = HOST,
        ports: Mapping[str, int | None] | None = None,
        **changes: Unpack[StringChanges],
    ) -> ConnectionString:
        identity = published.authority.issue(role, label, now=time.time())
        rule = published.rules[0 if role is Role.CONNECTOR else 1]
        assert rule.primary is not None
        string = ConnectionString(
            endpoints=(Endpoint(host, self.ports if ports is None else ports),),
            key_name=rule.name,
            key=rule.primary,
            entity_path=published.name,
            target=target if target is not None or role is Role.APPLICATION else HostPort(HOST, 9),
            identity=identity,
            authority=published.authority.certificate,
            relay_pins=(self.info.pin,),
        )
        return attrs.evolve(string, **changes)

    async def connector(self, *strings: ConnectionString, **options: Unpack[ConnectorOptions]) -> trio.CancelScope:
        """Start a connector; it is registered on return. Cancelling the scope that is returned kills it."""

        async def run(*, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(run_connector, ConnectorConfig(strings, **options))
                    task_status.started(scope)

        scope: trio.CancelScope = await self.nursery.start(run)
        return scope

    def client(
        self, string: ConnectionString, **options: Unpack[ClientOptions]
    ) -> AbstractAsyncContextManager[Client]:
        return open_client(ClientConfig(string, **options))


async def _keep_ports(host: str, *, task_status: trio.TaskStatus[dict[str, int]]) -> None:
    """Choose free ports, and keep them for the relays of a test until it ends, also while none is running."""
    with ExitStack() as stack:
        names = PORTS if sys.platform == "linux" else ()
        task_status.started({name: stack.enter_context(keep_port(host)).getsockname()[1] for name in names})
        await trio.sleep_forever()


async def deploy(
    nursery: trio.Nursery, state_dir: Path, *, host: str = HOST, ports: Mapping[str, int] | None = None
) -> Deployment:
    """Start a relay. `ports` gives those that are to have certain numbers, such as those of an earlier relay."""
    numbers = await nursery.start(_keep_ports, host) if ports is None else ports
    config = RelayConfig(
        state_dir=state_dir, bindings={name: (Binding(host, numbers.get(name, 0)),) for name in PORTS}
    )
    stop = trio.Event()

    ended = trio.Event()

    async def run(*, task_status: trio.TaskStatus[tuple[RelayInfo, trio.CancelScope]]) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                info = await inner.start(partial(run_relay, config, stop=stop))
                task_status.started((info, scope))
        ended.set()

    info, scope = await nursery.start(run)
    return Deployment(nursery, state_dir, info, scope, stop, host, ended)


async def serve_target(nursery: trio.Nursery, handler: Callable[[trio.SocketStream], Awaitable[None]]) -> HostPort:
    """Start a target. A connection that breaks in `handler` ends alone."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await handler(stream)

    listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host=HOST))
    return HostPort(HOST, listeners[0].socket.getsockname()[1])


async def echo(stream: trio.SocketStream) -> None:
    """Sends back what it gets, and ends when the other side has ended."""
    while data := await stream.receive_some():
        await stream.send_all(data)
    await stream.send_eof()
