"""A whole session where nginx stands in front of the relay and ends the outer TLS, configured as the docs say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio

from hybridrelay._nursery import FlatNursery
from hybridrelay.connectivity import Prober, RelayEndpoint
from hybridrelay.relay import Binding, RelayConfig, run_relay
from hybridrelay.security import Role

from ..connectivity.proxies import make_certificate
from ..receiving import receive_all
from ..system.deployment import HOST, Deployment, serve_target
from .conftest import find, private_folder, serving
from .test_proxies import digest

DOCS = Path(__file__).parents[2] / "docs" / "connectivity.md"

_NGINX = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
{server}
}}
"""


def documented_server(port: int, relay: int, certificate: Path) -> str:
    """The server block of the docs, with this machine's addresses in the place of its examples."""
    found = re.search(r"<!-- nginx -->\n```nginx\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert found, "docs/connectivity.md has the configuration"
    text = found[1]
    changes = {
        r"listen 443 ssl;": f"listen {HOST}:{port} ssl;",
        r"server_name .*;": "server_name _;",
        r"ssl_certificate .*;": f"ssl_certificate {certificate};",
        r"ssl_certificate_key .*;": f"ssl_certificate_key {certificate};",
        r"127\.0\.0\.1:8080": f"{HOST}:{relay}",
    }
    for pattern, replacement in changes.items():
        text, count = re.subn(pattern, replacement, text)
        assert count == 1, pattern
    return text


@pytest.mark.parametrize("told", [False, True], ids=["a certificate of its own", "the relay knows it"])
async def test_a_session_behind_nginx(tmp_path: Path, *, told: bool) -> None:
    server = find("nginx")
    certificate = make_certificate(tmp_path / "public.pem", HOST)
    config = RelayConfig(
        state_dir=tmp_path / "state",
        bindings={"http": (Binding(HOST, 0),)},
        tls_certificate=certificate if told else None,
    )
    with private_folder() as folder:
        async with FlatNursery() as nursery:
            info = await nursery.start(run_relay, config)
            relay = info.bound["http"][0].port

            def command(port: int) -> list[str | Path]:
                text = documented_server(port, relay, certificate)
                (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, server=text))
                return [server, "-p", folder, "-e", "stderr", "-c", folder / "nginx.conf"]

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
        async with trio.open_nursery() as sending:

            async def send() -> None:
                await stream.send_all(data)
                await stream.send_eof()

            sending.start_soon(send)
            assert (await receive_all(stream))[32:] == data
        assert client.route == "wss"
    report = await Prober(RelayEndpoint.all_from(application)[0]).survey()
    assert report.chosen == "wss"
    assert [a.intercepted_by for a in report.attempts] == [None] * 5, "a reverse proxy is no interception"
