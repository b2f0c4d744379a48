"""Other tunnels that are on PATH. Each adapter starts a server, and a client on each side.

All of them authenticate their clients, encrypt, and verify the server, as their documentation recommends. Everything
else has its default setting; none compresses.
"""

from __future__ import annotations

import json
from pathlib import Path

from ..certificates import BUNDLE_PASSWORD, create_certificates
from ..ports import HOST, free_port
from ..programs import environment
from .base import CONNECTOR, RELAY, Deployment, System, program


class Chisel(System):
    """chisel, which is SSH inside WebSocket, and decrypts in the middle."""

    name = "chisel"
    description = "chisel (SSH inside WebSocket), client to client over a server; decrypts in the middle"
    descriptors_per_stream = 2
    needs = ("chisel",)
    remedy = "https://github.com/jpillora/chisel/releases"
    reconnects = True

    def start(self, deployment: Deployment) -> None:
        """Start a server, a reverse forward on one side, a forward on the other."""
        port, far, deployment.entry = free_port(), free_port(), free_port()
        chisel = program("chisel")
        users = deployment.directory / "users.json"
        users.write_text(json.dumps({"bench:benchmark": [""]}))
        server = deployment.start(
            RELAY, [chisel, "server", "--host", HOST, "--port", str(port), "--authfile", users, "--reverse"]
        )
        fingerprint = server.wait_for_line(r"Fingerprint (\S+)")[1]
        server.wait_for_line("Listening on")
        client = [chisel, "client", "--auth", "bench:benchmark", "--fingerprint", fingerprint]
        remote = f"R:{HOST}:{far}:{HOST}:{deployment.server.port}"
        connector = deployment.start(CONNECTOR, [*client, f"http://{HOST}:{port}", remote])
        connector.wait_for_line("Connected")
        local = f"{HOST}:{deployment.entry}:{HOST}:{far}"
        deployment.start_client([*client, f"http://{HOST}:{deployment.across(port)}", local])


_FRP_SERVER = """\
bindAddr = "{host}"
bindPort = {port}
auth.token = "benchmark"
transport.tls.force = true
transport.tls.certFile = "{certificates.server}"
transport.tls.keyFile = "{certificates.key}"
"""
_FRP_CLIENT = """\
serverAddr = "{host}"
serverPort = {port}
auth.token = "benchmark"
transport.tls.enable = true
transport.tls.trustedCaFile = "{certificates.authority}"
"""
_FRP_PROXY = """
[[proxies]]
name = "bench"
type = "stcp"
secretKey = "benchmark"
localIP = "{host}"
localPort = {target}
"""
_FRP_VISITOR = """
[[visitors]]
name = "bench-visitor"
type = "stcp"
serverName = "bench"
secretKey = "benchmark"
bindAddr = "{host}"
bindPort = {entry}
"""


class Frp(System):
    """frp with a secret TCP proxy and its visitor, and TLS to the server, which decrypts.

    Streams share one connection on each side, which is frp's default.
    """

    name = "frp"
    description = "frp, stcp visitor, TLS; decrypts in the middle"
    needs = ("frps", "frpc")
    remedy = "https://github.com/fatedier/frp/releases"
    reconnects = True

    def start(self, deployment: Deployment) -> None:
        """Write three configurations, and start them."""
        port, deployment.entry = free_port(), free_port()
        near = deployment.across(port)
        names = {
            "host": HOST,
            "target": deployment.server.port,
            "entry": deployment.entry,
            "certificates": create_certificates(deployment.directory),
        }
        files = {
            "frps.toml": _FRP_SERVER.format(port=port, **names),
            "proxy.toml": (_FRP_CLIENT + _FRP_PROXY).format(port=port, **names),
            "visitor.toml": (_FRP_CLIENT + _FRP_VISITOR).format(port=near, **names),
        }
        for name, text in files.items():
            (deployment.directory / name).write_text(text)
        server = deployment.start(RELAY, [program("frps"), "-c", deployment.directory / "frps.toml"])
        server.wait_for_line("started successfully")
        connector = deployment.start(CONNECTOR, [program("frpc"), "-c", deployment.directory / "proxy.toml"])
        connector.wait_for_line("start proxy success")
        deployment.start_client([program("frpc"), "-c", deployment.directory / "visitor.toml"])


_RATHOLE_SERVER = """\
[server]
bind_addr = "{host}:{port}"
default_token = "benchmark"
[server.transport]
type = "tls"
[server.transport.tls]
pkcs12 = "{certificates.bundle}"
pkcs12_password = "{password}"
[server.services.bench]
bind_addr = "{host}:{far}"
"""
_RATHOLE_CLIENT = """\
[client]
remote_addr = "{host}:{port}"
default_token = "benchmark"
[client.transport]
type = "tls"
[client.transport.tls]
trusted_root = "{certificates.authority}"
hostname = "{host}"
[client.services.bench]
local_addr = "{host}:{target}"
"""


class Rathole(System):
    """rathole over TLS. Applications connect to its server without a client, in plaintext: there is one hop less.

    Therefore the line is between the application and the server, and nothing can reconnect across it.
    """

    name = "rathole"
    description = "rathole, TLS; applications connect to its server in plaintext: one process less"
    descriptors_per_stream = 2
    needs = ("rathole",)
    remedy = "https://github.com/rathole-org/rathole/releases"
    has_client = False

    def start(self, deployment: Deployment) -> None:
        """Write two configurations, and start them."""
        port, far = free_port(), free_port()
        names = {
            "host": HOST,
            "port": port,
            "far": far,
            "target": deployment.server.port,
            "certificates": create_certificates(deployment.directory),
            "password": BUNDLE_PASSWORD,
        }
        server, client = deployment.directory / "server.toml", deployment.directory / "client.toml"
        server.write_text(_RATHOLE_SERVER.format(**names))
        client.write_text(_RATHOLE_CLIENT.format(**names))
        deployment.start(RELAY, [program("rathole"), "--server", server])
        deployment.start(CONNECTOR, [program("rathole"), "--client", client])
        deployment.entry = deployment.across(far)


class Wstunnel(System):
    """wstunnel over WebSocket with TLS, whose server decrypts. Every stream has a connection of its own."""

    name = "wstunnel"
    description = "wstunnel over wss, client to client over a server; decrypts in the middle"
    descriptors_per_stream = 4
    needs = ("wstunnel",)
    remedy = "https://github.com/erebe/wstunnel/releases"
    reconnects = True

    def start(self, deployment: Deployment) -> None:
        """Start a server, a reverse tunnel on one side, a tunnel on the other."""
        port, far, deployment.entry = free_port(), free_port(), free_port()
        wstunnel = program("wstunnel")
        certificates = create_certificates(deployment.directory)
        # The path prefix is the secret that authenticates clients.
        files: list[str | Path] = ["--tls-certificate", certificates.server, "--tls-private-key", certificates.key]
        restriction = ("--restrict-http-upgrade-path-prefix", "benchmark")
        deployment.start(RELAY, [wstunnel, "server", *files, *restriction, f"wss://{HOST}:{port}"])
        client = [wstunnel, "client", "--tls-verify-certificate", "--http-upgrade-path-prefix", "benchmark"]
        trust = {**environment(), "SSL_CERT_FILE": str(certificates.authority)}
        remote = f"tcp://{HOST}:{far}:{HOST}:{deployment.server.port}"
        deployment.start(CONNECTOR, [*client, "-R", remote, f"wss://{HOST}:{port}"], env=trust)
        local = f"tcp://{HOST}:{deployment.entry}:{HOST}:{far}"
        deployment.start_client([*client, "-L", local, f"wss://{HOST}:{deployment.across(port)}"], env=trust)
