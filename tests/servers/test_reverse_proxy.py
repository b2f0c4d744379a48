"""A whole session where nginx stands in front of the relay and ends the outer TLS, configured as the docs say."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from hybridrelay._nursery import FlatNursery
from hybridrelay.connectivity import Prober, RelayEndpoint
from hybridrelay.relay import Binding, RelayConfig, run_relay
from hybridrelay.security import Role

from ..connectivity.proxies import make_certificate
from ..receiving import send_and_receive
from ..system.deployment import HOST, Deployment, serve_target
from .conftest import find, private_directory, serving
from .nginx_files import documented_server, nginx_command
from .test_proxies import digest


@pytest.mark.parametrize("told", [False, True], ids=["a certificate of its own", "the relay knows it"])
async def test_a_session_behind_nginx(tmp_path: Path, *, told: bool) -> None:
    server = find("nginx")
    certificate = make_certificate(tmp_path / "public.pem", HOST)
    config = RelayConfig(
        state_dir=tmp_path / "state",
        bindings={"http": (Binding(HOST, 0),)},
        tls_certificate=certificate if told else None,
    )
    with private_directory() as directory:
        async with FlatNursery() as nursery:
            info = await nursery.start(run_relay, config)
            relay = info.bound["http"][0].port

            def command(port: int) -> list[str | Path]:
                changes = {
                    r"listen 443 ssl;": f"listen {HOST}:{port} ssl;",
                    r"server_name .*;": "server_name _;",
                    r"ssl_certificate .*;": f"ssl_certificate {certificate};",
                    r"ssl_certificate_key .*;": f"ssl_certificate_key {certificate};",
                    r"127\.0\.0\.1:8080": f"{HOST}:{relay}",
                }
                return nginx_command(server, directory, documented_server("connectivity.md", changes))

            manager = serving(command, "nginx")
            https = await trio.to_thread.run_sync(manager.__enter__)
            try:
                await run_session(Deployment(nursery, config.state_dir, info, nursery.cancel_scope), https)
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(manager.__exit__, None, None, None)


async def run_session(deployment: Deployment, https: int) -> None:
    ports = {"https": https, "http": None, "probe": None, "control": None, "data": None}
    published = deployment.publish()
    target = await serve_target(deployment.nursery, digest)
    await deployment.connector(deployment.string(published, Role.CONNECTOR, target, ports=ports))
    application = deployment.string(published, Role.APPLICATION, ports=ports)
    data = bytes(range(256)) * 10_000
    async with deployment.client(application) as client:
        stream = await client.open_stream()
        assert (await send_and_receive(stream, data))[32:] == data
        assert client.route == "wss"
    report = await Prober(RelayEndpoint.all_from(application)[0]).survey()
    assert report.chosen == "wss"
    assert [a.intercepted_by for a in report.attempts] == [None] * 5, "a reverse proxy is not an interception"
