"""`docs/architecture.md` names the modules that act when a byte passes, a client joins, or a route is chosen."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hybridrelay.abc import Binding, Dialer
from hybridrelay.client import ClientConfig, open_client, run_forward
from hybridrelay.connectivity import ProxyDial, ProxySettings
from hybridrelay.connectivity.commands import Commands
from hybridrelay.connectivity.endpoint import RelayEndpoint
from hybridrelay.connectivity.instance import new_instance
from hybridrelay.connectivity.link import RelayLink
from hybridrelay.connector import ConnectorConfig, run_connector
from hybridrelay.protocol import control
from hybridrelay.relay import RelayConfig, SQLiteStore, run_relay
from hybridrelay.security import (
    ConnectionString,
    Endpoint,
    HostPort,
    Right,
    Role,
    Rule,
    create_authority,
    load_connection_string,
)

from ..connectivity.proxies import start_connect_proxy
from ..deployments import HYBRIDRELAY, PORT_NAMES, Deployment
from ..keys import key_of
from .acting import acting
from .targets import echo, exchange, serve

PAGE = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
BYTE, JOIN, ROUTE = "A byte of an application", "A join", "A route that is chosen"
#: What its lists leave out.
LEFT_OUT = "The four flows"
#: A background task may act at any moment. What a flow needs acts each time, of so many at most.
TIMES = 20
#: A task of the connector runs the session of which it has opened the data channel. The policy's files are looked at
#: several times a second. What is asked of a stream is checked.
NOT_OF_THE_FLOW = {"connector/channels.py", "policy/watching.py", "streams/arguments.py"}


def named_in(*titles: str) -> set[str]:
    """The modules that these sections name."""
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
    return {name for title in titles for name in re.findall(r"`([a-z_/]+\.py)`", sections[title])}


async def missing_in(titles: Sequence[str], act: Callable[[], Awaitable[set[str]]]) -> set[str]:
    """The modules that act each time, and that these sections do not name."""
    missing: set[str] | None = None
    for _ in range(TIMES):
        found = await act() - named_in(*titles) - NOT_OF_THE_FLOW
        missing = found if missing is None else missing & found
        if not missing:
            return set()
    assert missing is not None
    return missing


@pytest.fixture
async def application(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[ClientConfig]:
    """For a client of a relay and a connector in this process."""
    address = await serve(nursery, echo)
    bindings = {name: (Binding("127.0.0.1", 0),) for name in PORT_NAMES}
    config = RelayConfig(state_dir=tmp_path / "state", bindings=bindings)
    rules = Rule.generate("listen", [Right.LISTEN]), Rule.generate("send", [Right.SEND])
    with SQLiteStore.open(config.state_dir) as registry:
        registry.create("orders", ["127.0.0.1"], rules)
    relay = await nursery.start(run_relay, config)
    authority = create_authority("orders", now=time.time())
    endpoints = (Endpoint("127.0.0.1", {name: bound[0].port for name, bound in relay.bound.items()}),)

    def string(role: Role, rule: Rule, target: HostPort | None = None) -> ConnectionString:
        return ConnectionString(
            endpoints=endpoints, key_name=rule.name, key=key_of(rule), entity_path="orders", target=target,
            identity=authority.issue(role, "test", now=time.time()), authority=authority.certificate,
            relay_pins=(relay.pin,),
        )  # fmt: skip

    await nursery.start(run_connector, ConnectorConfig([string(Role.CONNECTOR, rules[0], HostPort(*address))]))
    yield ClientConfig(string(Role.APPLICATION, rules[1]))
    nursery.cancel_scope.cancel()


async def test_a_byte(application: ClientConfig, nursery: trio.Nursery) -> None:
    async with open_client(application) as client:
        ((_, port),) = await nursery.start(partial(run_forward, client, [("127.0.0.1", 0)]))

        async def pass_a_byte() -> set[str]:
            with acting() as found:
                assert await exchange(port, b"1") == b"1"
            return found

        await pass_a_byte()
        assert await missing_in([BYTE, LEFT_OUT], pass_a_byte) == set()
        nursery.cancel_scope.cancel()


async def test_a_join(application: ClientConfig) -> None:
    async def join() -> set[str]:
        async with open_client(application) as client:
            await wait_all_tasks_blocked()  # its background tasks have begun
            with acting() as found:
                await client.connect()
        return found

    assert await missing_in([JOIN, ROUTE, BYTE, LEFT_OUT], join) == set()


@asynccontextmanager
async def dialer_of(way: str, deployment: Deployment, nursery: trio.Nursery) -> AsyncIterator[Dialer]:
    """What opens connections to the relay: in the way of a mode, or through a proxy."""
    if way == "exec":
        command = [*HYBRIDRELAY, "relay-stdio", "--state", str(deployment.state)]
        async with Commands(command) as commands:
            yield Dialer(ProxyDial(ProxySettings()), process=commands.dial)
        return
    proxy = None
    if way == "proxy":
        proxy = f"http://127.0.0.1:{(await start_connect_proxy(nursery)).port}"
    yield Dialer(ProxyDial(ProxySettings() if proxy is None else ProxySettings.explicit(proxy)))


@pytest.mark.parametrize(
    ("way", "route", "acts"),
    [
        ("tcp", "tcp", "connectivity/addresses.py"),
        ("websocket", "wss", "connectivity/interception.py"),
        ("exec", "exec", "transports/hybridrelay_exec/stream.py"),
        ("proxy", "tcp", "connectivity/proxies/http.py"),
    ],
)
async def test_a_route(deployment: Deployment, nursery: trio.Nursery, way: str, route: str, acts: str) -> None:
    string = load_connection_string(deployment.create("orders", ("127.0.0.1", 1)).application)
    everything = set[str]()

    async def choose() -> set[str]:
        async with dialer_of(way, deployment, nursery) as dialer, trio.open_nursery() as channels:
            with acting() as found:
                (endpoint,) = RelayEndpoint.all_from(string, clock=time.time)
                mode = "auto" if way == "proxy" else way
                link = RelayLink(endpoint, control.PeerRole.CLIENT, instance=new_instance(), mode=mode, dialer=dialer)
                await link.start_control(channels)
            assert link.route == route
            channels.cancel_scope.cancel()
        everything.update(found)
        return found

    assert await missing_in([ROUTE, BYTE, LEFT_OUT], choose) == set()
    assert {"connectivity/selection.py", acts} <= everything
    nursery.cancel_scope.cancel()


def test_the_modules_that_act_are_found() -> None:
    with acting() as found:
        HostPort("host", 1)
        create_authority("orders", now=time.time())
    assert "security/identity.py" in found or "security/building_certificates.py" in found
