"""Real proxies, each a process of its own on a free port."""

from __future__ import annotations

import contextlib
import getpass
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import attrs
import trio

from hybridrelay._nursery import FlatNursery
from hybridrelay.connectivity import ProxyDial, ProxySettings, dial_directly
from hybridrelay.security import Secret

from ..system.deployment import PORTS, Deployment, deploy
from .conftest import find, private_directory, serving

USER, PASSWORD = "me", "hunter2-is-secret"


@attrs.frozen
class RealProxy:
    """A proxy that runs. Connections that do not go to it are counted."""

    scheme: str
    port: int
    authentication: bool
    directory: Path
    strays: list[tuple[str, int]] = attrs.field(factory=list)

    def dial(self, *, user: str = USER, password: str = PASSWORD, anonymous: bool = False) -> ProxyDial:
        """A dial through it, with the right credentials unless others are given."""

        async def watched(host: str, port: int) -> trio.abc.Stream:
            if port != self.port:
                self.strays.append((host, port))
            return await dial_directly(host, port)

        if self.authentication and not anonymous:
            url, secret = f"{self.scheme}://{user}@127.0.0.1:{self.port}", Secret(password)
        else:
            url, secret = f"{self.scheme}://127.0.0.1:{self.port}", None
        return ProxyDial(ProxySettings.explicit(url, password=secret), dial=watched)


Starter = Callable[..., contextlib.AbstractContextManager[RealProxy]]


@asynccontextmanager
async def laboratory(
    state: Path, starter: Starter, ports: Collection[str] = PORTS, **options: bool
) -> AsyncIterator[tuple[Deployment, RealProxy]]:
    """A relay, and a proxy that lets through to these of its ports. The proxy ends after all connections have: some
    wait for that."""
    manager: contextlib.AbstractContextManager[RealProxy] | None = None
    try:
        async with FlatNursery() as nursery:
            deployment = await deploy(nursery, state)
            started = starter([deployment.ports[name] for name in ports], **options)
            proxy = await trio.to_thread.run_sync(started.__enter__)
            manager = started
            yield deployment, proxy
            nursery.cancel_scope.cancel()
    finally:
        if manager is not None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(manager.__exit__, None, None, None)


_TINYPROXY = """
Port {port}
Listen 127.0.0.1
Timeout 600
MaxClients 200
LogLevel Error
{authentication}
{ports}
"""


@contextmanager
def tinyproxy(allowed: Collection[int], *, authentication: bool = False) -> Iterator[RealProxy]:
    """CONNECT to these ports only; Basic authentication."""
    server = find("tinyproxy")
    with private_directory() as directory:

        def command(port: int) -> list[str | Path]:
            ports = "\n".join(f"ConnectPort {number}" for number in allowed)
            login = f"BasicAuth {USER} {PASSWORD}" if authentication else ""
            configuration = directory / "tinyproxy.conf"
            configuration.write_text(_TINYPROXY.format(port=port, ports=ports, authentication=login))
            return [server, "-d", "-c", configuration]

        with serving(command, "tinyproxy") as port:
            yield RealProxy("http", port, authentication, directory)


_SQUID = """
http_port 127.0.0.1:{port}
pid_filename none
cache deny all
access_log none
cache_log {directory}/cache.log
coredump_dir {directory}
netdb_filename none
shutdown_lifetime 0 seconds
pinger_enable off
visible_hostname proxy.test
acl allowed port {ports}
http_access deny !allowed
{authentication}
http_access deny all
"""
_SQUID_LOGIN = """
auth_param basic program /bin/sh {directory}/login.sh
auth_param basic realm test
acl known proxy_auth REQUIRED
http_access allow known
"""
_LOGIN = f'while read -r line; do [ "$line" = "{USER} {PASSWORD}" ] && echo OK || echo ERR; done\n'


@contextmanager
def squid(allowed: Collection[int], *, authentication: bool = False) -> Iterator[RealProxy]:
    """CONNECT to these ports only; Basic authentication."""
    server = find("squid")
    with private_directory("proxy" if os.geteuid() == 0 else None) as directory:
        (directory / "login.sh").write_text(_LOGIN)

        def command(port: int) -> list[str | Path]:
            login = _SQUID_LOGIN.format(directory=directory) if authentication else "http_access allow all"
            configuration = directory / "squid.conf"
            ports = " ".join(map(str, allowed))
            configuration.write_text(_SQUID.format(directory=directory, port=port, ports=ports, authentication=login))
            return [server, "-N", "-f", configuration]

        with serving(command, "squid") as port:
            yield RealProxy("http", port, authentication, directory)


@contextmanager
def microsocks(allowed: Collection[int], *, authentication: bool = False) -> Iterator[RealProxy]:
    """SOCKS5 to everywhere, with user and password or without."""
    server = find("microsocks")
    login = ["-u", USER, "-P", PASSWORD] if authentication else []
    with private_directory() as directory:
        with serving(lambda port: [server, "-i", "127.0.0.1", "-p", str(port), *login], "microsocks") as port:
            yield RealProxy("socks5h", port, authentication, directory)


_DANTE = """
logoutput: stderr
internal: 127.0.0.1 port = {port}
external: lo
clientmethod: none
socksmethod: none
user.privileged: {user}
user.unprivileged: {user}
client pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}
{rules}
"""


@contextmanager
def dante(allowed: Collection[int], *, authentication: bool = False) -> Iterator[RealProxy]:
    """SOCKS5 to these ports only."""
    assert not authentication
    server = find("danted")
    user = getpass.getuser()
    with private_directory() as directory:

        def command(port: int) -> list[str | Path]:
            rules = "\n".join(
                f"socks pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 port = {number} }}" for number in allowed
            )
            configuration = directory / "danted.conf"
            configuration.write_text(_DANTE.format(port=port, rules=rules, user=user))
            return [server, "-f", configuration]

        with serving(command, "danted") as port:
            yield RealProxy("socks5", port, authentication, directory)


#: Writes down everything that it can see.
_ADDON = """
SEEN = open({path!r}, "ab", buffering=0)


class Recorder:
    def request(self, flow):
        SEEN.write(repr(flow.request.headers).encode() + (flow.request.raw_content or b""))

    def response(self, flow):
        SEEN.write(repr(flow.response.headers).encode() + (flow.response.raw_content or b""))

    def websocket_message(self, flow):
        SEEN.write(flow.websocket.messages[-1].content)

    def tcp_message(self, flow):
        SEEN.write(flow.messages[-1].content)


addons = [Recorder()]
"""


@contextmanager
def mitmproxy(allowed: Collection[int] = (), *, verify: bool = False) -> Iterator[RealProxy]:
    """Opens TLS on all ports, and keeps what it sees in ``seen``; `verify` makes it demand public certificates."""
    server = find("mitmdump")
    with private_directory() as directory:
        addon = directory / "recorder.py"
        addon.write_text(_ADDON.format(path=str(directory / "seen")))

        def command(port: int) -> list[str | Path]:
            options = [f"confdir={directory}", "termlog_verbosity=error", f"ssl_insecure={str(not verify).lower()}"]
            settings = [part for option in options for part in ("--set", option)]
            return [server, "--listen-host", "127.0.0.1", "-p", str(port), "-q", "-s", addon, *settings]

        with serving(command, "mitmdump") as port:
            yield RealProxy("http", port, False, directory)
