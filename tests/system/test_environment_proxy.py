"""Client and connector go through the proxy that the environment names, and leave names to it."""

from __future__ import annotations

import time

import pytest
import trio

from hybridrelay.connector import ConnectorConfig, run_connector
from hybridrelay.errors import ConfigurationError
from hybridrelay.relay import SQLiteStore
from hybridrelay.security import HostPort, Right, Role, Rule, create_authority

from ..connectivity.proxies import start_connect_proxy
from .deployment import HOST, Deployment, Published, echo, serve_target

#: Known to the proxy alone (RFC 2606).
NAME = "relay.invalid"


def publish(deployment: Deployment) -> Published:
    rules = (Rule.generate("listener", [Right.LISTEN]), Rule.generate("sender", [Right.SEND]))
    with SQLiteStore.open(deployment.state_dir) as registry:
        registry.create("db", [NAME], rules)
    return Published("db", create_authority("db", now=time.time()), rules)


@pytest.mark.parametrize("refuse_native", [False, True])
async def test_everything_goes_through_it(
    deployment: Deployment, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, *, refuse_native: bool
) -> None:
    native = [deployment.info.bound[name][0].port for name in ("probe", "control", "data")]
    proxy = await start_connect_proxy(nursery, names={NAME: HOST}, refused_ports=native if refuse_native else [])
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("NO_PROXY", "example.com,10.0.0.0/8")
    published = publish(deployment)
    target: HostPort = await serve_target(nursery, echo)
    await deployment.connector(deployment.string(published, Role.CONNECTOR, target, host=NAME))
    async with deployment.client(deployment.string(published, Role.APPLICATION, host=NAME)) as client:
        stream = await client.open_stream()
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        assert client.route == ("wss" if refuse_native else "tcp")
        assert client.report is not None
        assert client.report.proxy == f"http://127.0.0.1:{proxy.port}"
    assert {target.partition(":")[0] for target in proxy.targets} == {NAME}
    nursery.cancel_scope.cancel()


async def test_an_impossible_proxy_is_said_at_once(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "gopher://me:hunter2@proxy")
    published = deployment.publish()
    with pytest.raises(ConfigurationError, match="HTTPS_PROXY") as caught:
        async with deployment.client(deployment.string(published, Role.APPLICATION)):
            raise AssertionError
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="HTTPS_PROXY"):
        await run_connector(ConnectorConfig([deployment.string(published, Role.CONNECTOR)]))
