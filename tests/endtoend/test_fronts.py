"""SOCKS5 and HTTP CONNECT in front of hybrid connections, with the programs that people use."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from ..deployments import Deployment, Program, Published, free_port, skip_unless_ci
from ..waiting import async_wait_until, patience
from .targets import echo, serve

INTRANET = "intranet.corp.example"
GONE = "gone.corp.example"
DENIED = "denied.corp.example"


async def web(stream: trio.SocketStream) -> None:
    """An HTTP server that answers one request."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = await stream.receive_some()
        if not data:
            return
        received += data
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nreached")


@attrs.define
class Scene:
    """A forward with both fronts: a web server, an echo, and a target that refuses."""

    deployment: Deployment
    connector: Program
    forward: Program
    socks: str
    http: str
    connections: dict[str, Published]

    async def run(self, *command: str | Path, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        def run() -> subprocess.CompletedProcess[bytes]:
            arguments = [str(part) for part in command]
            return subprocess.run(arguments, input=data, capture_output=True, check=False, timeout=patience(60))

        return await trio.to_thread.run_sync(run)

    async def curl(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, output and messages."""
        done = await self.run("curl", "--silent", "--show-error", "--max-time", "50", *arguments)
        return done.returncode, done.stdout.decode(), done.stderr.decode()


async def start(deployment: Deployment, nursery: trio.Nursery, *options: str | Path) -> Scene:
    if shutil.which("curl") is None or shutil.which("nc") is None:
        skip_unless_ci("needs curl and nc")
    refusing = free_port()
    targets = {
        "web": (await serve(nursery, web), f"{INTRANET}:80"),
        "echo": (await serve(nursery, echo), "echo.corp.example:7"),
        "gone": (("127.0.0.1", refusing), f"{GONE}:80"),
        "denied": (await serve(nursery, web), f"{DENIED}:80"),
    }
    policies = deployment.directory / "connector-policies"
    policies.mkdir(mode=0o700)
    (policies / "policy.toml").write_text("")
    connections = {}
    for name, (target, local_name) in targets.items():
        connections[name] = one = deployment.create(name, target)
        change = ("connections", "set-local-name", name, "--local-name", local_name, "--update", one.application)
        done = await trio.to_thread.run_sync(partial(deployment.run, *change))
        assert done.returncode == 0, done.stderr
    connector = deployment.start_connector(
        *connections.values(), arguments=["--mode", "tcp", "--policy-dir", str(policies)]
    )
    forward = deployment.start(
        "forward", "--mode", "tcp", "--connection-string-file", *(one.application for one in connections.values()),
        "--socks", "127.0.0.1:0", "--http-proxy", "127.0.0.1:0", *options,
    )  # fmt: skip
    fronts = {
        kind: (await forward.logs(rf"front\.listening: .* front={kind} addresses=(\S+)"))[1]
        for kind in ("socks", "http-proxy")
    }
    return Scene(deployment, connector, forward, fronts["socks"], fronts["http-proxy"], connections)


@pytest.fixture
async def scene(deployment: Deployment, nursery: trio.Nursery) -> Scene:
    return await start(deployment, nursery)


async def test_programs_reach_what_is_published_and_nothing_else(scene: Scene, nursery: trio.Nursery) -> None:
    """They also learn why they do not reach a target."""
    assert "127.0.0.1:" in scene.forward.out
    socks, http = ("--socks5-hostname", scene.socks), ("--proxy", f"http://{scene.http}", "--proxytunnel")
    for front in (socks, http):
        code, out, err = await scene.curl(*front, f"http://{INTRANET.upper()}/")
        assert (code, out) == (0, "reached"), err
    # nc speaks both protocols, and is what ssh uses in ProxyCommand. It ends when the target does.
    for version, address in (("5", scene.socks), ("connect", scene.http)):
        done = await scene.run("nc", "-N", "-X", version, "-x", address, "echo.corp.example", "7", data=b"hello")
        assert (done.returncode, done.stdout) == (0, b"hello"), done.stderr
    # curl names the replies of SOCKS5: 5 is a refused connection, and 2 not allowed.
    code, _, err = await scene.curl(*socks, f"http://{GONE}/")
    assert code == 97
    assert re.search(r"\(5\)", err), err
    for other in (f"http://{INTRANET}:81/", "http://example.com/", "http://127.0.0.1/", f"http://x.{INTRANET}/"):
        code, _, err = await scene.curl(*socks, other)
        assert code == 97
        assert re.search(r"\(2\)", err), err
        code, out, err = await scene.curl(*http, "--include", other)
        assert code == 56
        assert "403" in err
    code, out, err = await scene.curl(*http, "--include", f"http://{GONE}/")
    assert code == 56
    assert "502" in err
    # Without a tunnel, curl sends the request to the proxy.
    code, out, _ = await scene.curl("--proxy", f"http://{scene.http}", f"http://{INTRANET}/")
    assert "--proxytunnel" in out
    # curl lets the machine resolve the name with this option, so that the address arrives here.
    code, _, err = await scene.curl("--socks5", scene.socks, "http://127.0.0.1:80/")
    assert code == 97
    refused = await scene.forward.logs(r"front\.request-refused: .* wanted=(\S+:81)")
    assert refused[1] == f"{INTRANET}:81"
    nursery.cancel_scope.cancel()


async def test_a_target_that_the_policy_denies(scene: Scene, nursery: trio.Nursery) -> None:
    """It is refused from the moment at which the connector's policy denies it."""
    target = re.search(r"denied=127\.0\.0\.1:(\d+)", scene.connector.out)
    assert target is not None
    policy = scene.deployment.directory / "connector-policies" / "policy.toml"
    policy.write_text(f'DeniedTargets = ["127.0.0.1:{target[1]}"]\n')
    await scene.connector.logs(r"policy\.in-force: .* rules=1")
    code, _, err = await scene.curl("--socks5-hostname", scene.socks, f"http://{DENIED}/")
    assert code == 97
    assert re.search(r"\(2\)", err), err
    code, _, err = await scene.curl("--proxytunnel", "--proxy", f"http://{scene.http}", f"http://{DENIED}/")
    assert code == 56
    assert "403" in err
    await scene.forward.logs(r"stream\.failed: .* reason=denied-by-policy")
    nursery.cancel_scope.cancel()


async def test_what_the_reply_of_the_proxy_says(scene: Scene, nursery: trio.Nursery) -> None:
    """The reason is given as text, and for programs."""
    host, _, port = scene.http.partition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(f"CONNECT {GONE}:80 HTTP/1.1\r\nHost: {GONE}\r\n\r\nearly".encode())
        reply = b""
        async for data in stream:  # it ends, and is not reset
            reply += data
    text = reply.decode()
    assert text.startswith("HTTP/1.1 502 ")
    assert 'Proxy-Status: hybridrelay; error=connection_refused; details="target-refused"' in text
    assert "the target refused the connection" in text
    await scene.forward.logs(r"stream\.failed: .* reason=target-refused")
    nursery.cancel_scope.cancel()


async def test_what_is_sent_with_the_request_arrives(scene: Scene, nursery: trio.Nursery) -> None:
    """Applications need not wait for the reply."""
    name = b"echo.corp.example"
    sent = {
        scene.socks: b"\x05\x01\x00" + b"\x05\x01\x00\x03" + bytes([len(name)]) + name + b"\x00\x07",
        scene.http: b"CONNECT echo.corp.example:7 HTTP/1.1\r\nHost: x\r\n\r\n",
    }
    replies = {scene.socks: b"\x05\x00" + b"\x05\x00\x00\x01" + bytes(6), scene.http: b"HTTP/1.1 200 "}
    early = bytes(range(256)) * 256
    for address, request in sent.items():
        host, _, port = address.partition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(request + early)
            await stream.send_eof()
            received = b"".join([bytes(data) async for data in stream])
        assert received.startswith(replies[address])
        assert received.endswith(early)
    nursery.cancel_scope.cancel()


async def test_users_and_a_reload(deployment: Deployment, nursery: trio.Nursery, tmp_path: Path) -> None:
    """Passwords, fronts and names change while the program runs."""
    users = tmp_path / "users"
    users.write_text("ann:first\n")
    users.chmod(0o600)
    scene = await start(deployment, nursery, "--front-users-file", users)
    url = f"http://{INTRANET}/"
    fronts = (("--socks5-hostname", scene.socks), ("--proxy", f"http://{scene.http}", "--proxytunnel"))

    async def accepts(user: str) -> list[bool]:
        found = []
        for front in fronts:
            code, out, _ = await scene.curl(*front, "--proxy-user", user, url)
            found.append((code, out) == (0, "reached"))
        return found

    assert await accepts("ann:first") == [True, True]
    assert await accepts("ann:second") == [False, False]
    _, _, err = await scene.curl(*fronts[1], url)
    assert "407" in err
    users.write_text("ann:second\n")

    async def uses_second() -> bool:
        return await accepts("ann:second") == [True, True]

    await async_wait_until(uses_second, seconds=60, what="the other password is accepted")
    assert await accepts("ann:first") == [False, False]
    assert "first" not in scene.forward.err
    nursery.cancel_scope.cancel()


async def test_fronts_in_a_configuration_file(deployment: Deployment, nursery: trio.Nursery, tmp_path: Path) -> None:
    scene = await start(deployment, nursery)
    config = tmp_path / "forward.toml"
    ports = [free_port(), free_port(), free_port()]
    table = f'[[connection]]\nfile = "{scene.connections["web"].application}"\n'
    config.write_text(f'mode = "tcp"\nsocks = "127.0.0.1:{ports[0]}"\n{table}')
    other = deployment.start("forward", "--config", config)

    async def reaches(port: int, kind: str) -> bool:
        front = ("--socks5-hostname", f"127.0.0.1:{port}") if kind == "socks" else ("-px", f"http://127.0.0.1:{port}")
        code, out, _ = await scene.curl(*front, f"http://{INTRANET}/")
        return (code, out) == (0, "reached")

    assert await reaches(ports[0], "socks")
    config.write_text(f'mode = "tcp"\nsocks = ["127.0.0.1:{ports[1]}"]\nhttp-proxy = "127.0.0.1:{ports[2]}"\n{table}')
    await async_wait_until(partial(reaches, ports[1], "socks"), seconds=60, what="the new front")
    assert await reaches(ports[2], "http-proxy")
    assert not await reaches(ports[0], "socks")
    with socket.create_server(("127.0.0.1", ports[0])):
        config.write_text(f'mode = "tcp"\nsocks = "127.0.0.1:{ports[0]}"\n{table}')
        await other.logs(r"reload\.failed: .*127\.0\.0\.1:\d+.*in use|cannot listen on 127\.0\.0\.1")
    assert await reaches(ports[1], "socks"), "a front that cannot be opened changes nothing"
    nursery.cancel_scope.cancel()


async def test_a_file_that_cannot_be_used_changes_no_front(
    deployment: Deployment, nursery: trio.Nursery, tmp_path: Path
) -> None:
    """This holds even if the fronts in it could be used. Later, a port passes from a front to a hybrid connection."""
    scene = await start(deployment, nursery)
    config = tmp_path / "forward.toml"
    first, second, port = free_port(), free_port(), free_port()
    table = f'[[connection]]\nfile = "{scene.connections["web"].application}"\n'
    config.write_text(f'mode = "tcp"\nsocks = "127.0.0.1:{first}"\n{table}listen = "127.0.0.1:{port}"\n')
    other = deployment.start("forward", "--config", config)

    async def reaches(*front: str) -> bool:
        code, out, _ = await scene.curl(*front, f"http://{INTRANET}/")
        return (code, out) == (0, "reached")

    def through(port: int) -> tuple[str, str]:
        return "--socks5-hostname", f"127.0.0.1:{port}"

    assert await reaches(*through(first))
    for fronts, listen in (
        (f'socks = "127.0.0.1:{second}"', '"127.0.0.1:{used}"'),
        ("", f'["127.0.0.1:{first}", "127.0.0.1:{{used}}"]'),  # the port of the front would be used again
    ):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            used = taken.getsockname()[1]
            config.write_text(f'mode = "tcp"\n{fronts}\n{table}listen = {listen.format(used=used)}\n')
            await other.logs(rf"reload\.failed: .*{used}|cannot listen on 127\.0\.0\.1:{used}")
            assert await reaches(*through(first))
            assert not await reaches(*through(second))

    config.write_text(f'mode = "tcp"\nsocks = "127.0.0.1:{second}"\n{table}listen = "127.0.0.1:{first}"\n')
    await async_wait_until(partial(reaches, *through(second)), seconds=60, what="the new front")
    assert await reaches("--connect-to", f"{INTRANET}:80:127.0.0.1:{first}")
    nursery.cancel_scope.cancel()


async def test_a_policy_may_deny_a_front(deployment: Deployment, nursery: trio.Nursery, tmp_path: Path) -> None:
    """The policy may deny local ports in the same way."""
    published = deployment.create("echo", await serve(nursery, echo))
    deployment.start_connector(published, arguments=["--mode", "tcp"])
    policies = tmp_path / "policies"
    policies.mkdir(mode=0o700)
    (policies / "policy.toml").write_text('AllowedForwardAddresses = ["127.0.0.1:5432"]\n')
    change = ("connections", "set-local-name", "echo", "--local-name", "echo.corp.example:7")
    done = await trio.to_thread.run_sync(partial(deployment.run, *change, "--update", published.application))
    assert done.returncode == 0, done.stderr
    forward = ("forward", "--mode", "tcp", "--connection-string-file", published.application)
    run = partial(deployment.run, *forward, "--policy-dir", policies, "--socks", "127.0.0.1:0")
    done = await trio.to_thread.run_sync(run)
    assert done.returncode == 3, done.stderr
    assert "AllowedForwardAddresses" in done.stderr
    nursery.cancel_scope.cancel()


async def test_connections_through_a_front_may_finish(deployment: Deployment, nursery: trio.Nursery) -> None:
    """They finish while the forward stops."""
    scene = await start(deployment, nursery, "--grace", "50")
    host, _, port = scene.socks.partition(":")
    name = b"echo.corp.example"
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(b"\x05\x01\x00\x05\x01\x00\x03" + bytes([len(name)]) + name + b"\x00\x07")
        received = b""
        while len(received) < 12:
            received += await stream.receive_some()
        scene.forward.process.terminate()

        async def is_closed() -> bool:
            with socket.socket() as sock:
                return sock.connect_ex((host, int(port))) != 0

        await async_wait_until(is_closed, seconds=60, what="the front is closed")
        await stream.send_all(b"still there")
        assert await stream.receive_some() == b"still there"
        await stream.send_eof()
        assert await stream.receive_some() == b""
    assert await trio.to_thread.run_sync(scene.forward.wait) == 0
    nursery.cancel_scope.cancel()
