"""Datagrams through relay, connector and forward as processes."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from hybridrelay._own_address import own_addresses

from ..deployments import Deployment, Program, free_udp_port
from ..waiting import async_wait_until, patience


@contextmanager
def bound(host: str = "127.0.0.1") -> Iterator[trio.socket.SocketType]:
    """A UDP socket of the test, the target or an application."""
    sock = trio.socket.from_stdlib_socket(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        yield sock


async def echo(sock: trio.socket.SocketType) -> None:
    while True:
        data, source = await sock.recvfrom(70_000)
        await sock.sendto(b"re: " + data[:65_000], source)


async def ask(port: int, *requests: bytes, host: str = "127.0.0.1") -> list[bytes]:
    """The answers to requests, one after the other, each repeated while there is none."""
    answers = []
    with bound() as application:
        await application.connect((host, port))
        for request in requests:
            with trio.fail_after(patience(30)):
                while True:
                    await application.send(request)
                    with trio.move_on_after(1):
                        answers.append(await application.recv(70_000))
                        break
    return answers


def start_forward(deployment: Deployment, application: Path, *listen: str, mode: str = "tcp") -> tuple[Program, int]:
    """A forward with one local port for datagrams."""
    program = deployment.start(
        "forward", "--connection-string-file", application, "--mode", mode,
        *(part for one in listen for part in ("--listen", one)),
    )  # fmt: skip
    found = re.search(r"127\.0\.0\.1:(\d+)/udp", program.out)
    assert found is not None, program.out
    return program, int(found[1])


async def test_requests_are_answered_over_any_transport(
    deployment: Deployment, nursery: trio.Nursery, mode: str
) -> None:
    with bound() as target:
        await target.bind(("127.0.0.1", 0))
        nursery.start_soon(echo, target)
        dns = deployment.create("dns", f"127.0.0.1:{target.getsockname()[1]}/udp")
        connector = deployment.start_connector(dns, arguments=["--mode", mode, *deployment.datagrams_allowed()])
        _, port = start_forward(deployment, dns.application, "127.0.0.1:0/udp", mode=mode)
        requests = [b"hello", b"", b"x" * 60_000]
        for _ in range(3):
            assert await ask(port, *requests) == [b"re: " + request for request in requests]
        await connector.logs(r"event='open' .*target='127\.0\.0\.1:\d+/udp'")
        nursery.cancel_scope.cancel()


async def test_streams_and_datagrams_at_one_port(deployment: Deployment, nursery: trio.Nursery) -> None:
    with bound() as target:
        number = free_udp_port()
        (listener,) = await trio.open_tcp_listeners(number, host="127.0.0.1")
        async with listener:
            await target.bind(("127.0.0.1", number))
            nursery.start_soon(echo, target)
            ldap = deployment.create("ldap", f"127.0.0.1:{number}/tcp+udp")
            deployment.start_connector(ldap, arguments=deployment.datagrams_allowed())
            program, port = start_forward(deployment, ldap.application, "127.0.0.1:0/tcp+udp")
            assert f"ldap=127.0.0.1:{port},127.0.0.1:{port}/udp" in program.out
            assert await ask(port, b"ping") == [b"re: ping"]
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream, await listener.accept() as served:
                await stream.send_all(b"search")
                assert await served.receive_some() == b"search"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("suffix", ["", "/udp", "/tcp+udp"])
async def test_without_listen_it_receives_what_the_target_does(
    deployment: Deployment, nursery: trio.Nursery, suffix: str
) -> None:
    with bound() as target:
        await target.bind(("127.0.0.1", 0))
        nursery.start_soon(echo, target)
        dns = deployment.create("dns", f"127.0.0.1:{target.getsockname()[1]}{suffix}")
        deployment.start_connector(dns, arguments=deployment.datagrams_allowed())
        program = deployment.start("forward", "--connection-string-file", dns.application)
        found = re.search(r" dns=(.*)$", program.out)
        assert found is not None, program.out
        listening = found[1].split(",")
        assert [one.endswith("/udp") for one in listening] == {
            "": [False], "/udp": [True], "/tcp+udp": [False, True]
        }[suffix]  # fmt: skip
        if suffix:
            port = int(listening[-1].removeprefix("127.0.0.1:").removesuffix("/udp"))
            assert await ask(port, b"ping") == [b"re: ping"]
        nursery.cancel_scope.cancel()


async def test_without_listen_every_port_receives_datagrams(deployment: Deployment) -> None:
    """It needs no connector for that."""
    ports = {free_udp_port(), free_udp_port()}
    kdc = deployment.create("kdc", f"{NAME}:{','.join(map(str, ports))}/udp")
    program = deployment.start("forward", "--connection-string-file", kdc.application)
    assert re.search(rf" kdc={ADDRESS}:[0-9-]+/udp(,{ADDRESS}:[0-9-]+/udp)?$", program.out)


NAME = "kdc.corp.example"
ADDRESS = own_addresses([NAME])[NAME]


async def say_port(sock: trio.socket.SocketType) -> None:
    """Answer every datagram with the number of the port."""
    while True:
        _, source = await sock.recvfrom(100)
        await sock.sendto(str(sock.getsockname()[1]).encode(), source)


@pytest.mark.parametrize("suffix", ["/udp", "/tcp+udp"])
async def test_every_port_of_a_target_leads_to_the_same_port(
    deployment: Deployment, nursery: trio.Nursery, suffix: str
) -> None:
    """A port that cannot be opened is left out, which the ready line and the status say."""
    with ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < 3:
            port = free_udp_port()
            if all(abs(port - other) > 1 for other in ports):  # else they are shown as a range
                sock = stack.enter_context(bound())
                await sock.bind(("127.0.0.1", port))
                ports.append(port)
                nursery.start_soon(say_port, sock)
        first, second, taken = ports
        numbers = ",".join(map(str, ports))
        kdc = deployment.create("kdc", f"127.0.0.1:{numbers}/tcp+udp", local_name=f"{NAME}:{numbers}")
        deployment.start_connector(kdc, arguments=deployment.datagrams_allowed())
        other = stack.enter_context(bound())
        await other.bind((ADDRESS, taken))
        status = deployment.directory / "status.sock"
        program = deployment.start(
            "forward", "--connection-string-file", kdc.application, "--listen", f"own{suffix}", "--status", status
        )
        for port in (first, second):
            assert await ask(port, b"which?", host=ADDRESS) == [str(port).encode()]
            assert f"{ADDRESS}:{port}/udp" in program.out
            assert bool(re.search(rf"{ADDRESS}:{port}\b(?!/udp)", program.out)) is (suffix == "/tcp+udp")
        left_out = f"{ADDRESS}:{taken}/udp"
        assert program.out.endswith(f" kdc:left-out={left_out}")
        await program.logs(rf"forward\.ports-left-out: .* addresses={left_out}")
        done = await trio.to_thread.run_sync(partial(deployment.run, "status", "--from", status, "--json"))
        found = json.loads(done.stdout)
        assert found["hybridConnections"][0]["leftOut"] == [left_out]
        assert [one["code"] for one in found["problems"]] == ["ports-left-out"]
        nursery.cancel_scope.cancel()


async def test_only_a_policy_allows_them(deployment: Deployment, nursery: trio.Nursery, tmp_path: Path) -> None:
    """A change of the policy also ends those that are open."""
    policies = tmp_path / "policies"
    policies.mkdir()
    with bound() as target:
        await target.bind(("127.0.0.1", 0))
        nursery.start_soon(echo, target)
        dns = deployment.create("dns", f"127.0.0.1:{target.getsockname()[1]}/udp")
        connector = deployment.start_connector(dns, arguments=["--policy-dir", str(policies)])
        await connector.logs(r"policy\.datagrams-denied: .*set AllowUdp = true in the policy of this machine, /etc/")
        forward, port = start_forward(deployment, dns.application, "127.0.0.1:0/udp")
        with bound() as application:
            await application.sendto(b"too early", ("127.0.0.1", port))
            await connector.logs(r"policy\.refused: .*AllowUdp is not set")
            await forward.logs(r"warning .*forward\.flow-not-opened: .*reason=denied-by-policy")
        (policies / "udp.toml").write_text("AllowUdp = true\n")
        await connector.logs(r"policy\.in-force: .*AllowUdp true")
        assert await ask(port, b"allowed") == [b"re: allowed"]
        (policies / "udp.toml").write_text("AllowUdp = false\n")
        await connector.logs(r"policy\.refused: .*allow-udp")
        with bound() as application:
            await application.sendto(b"denied", ("127.0.0.1", port))
            await connector.logs(r"event='refused' .*reason='denied-by-policy'")
        nursery.cancel_scope.cancel()


async def test_a_relay_that_restarts(deployment: Deployment, nursery: trio.Nursery) -> None:
    """A flow continues in the session that resumes."""
    with bound() as target, bound() as application:
        await target.bind(("127.0.0.1", 0))
        nursery.start_soon(echo, target)
        dns = deployment.create("dns", f"127.0.0.1:{target.getsockname()[1]}/udp")
        connector = deployment.start_connector(dns, arguments=deployment.datagrams_allowed())
        _, port = start_forward(deployment, dns.application, "127.0.0.1:0/udp")
        await application.connect(("127.0.0.1", port))

        async def answered(request: bytes) -> bool:
            await application.send(request)
            with trio.move_on_after(0.5):
                while await application.recv(100) != b"re: " + request:
                    pass
                return True
            return False

        await async_wait_until(lambda: answered(b"before"), seconds=30, what="an answer")
        deployment.programs[0].kill()
        deployment.start_relay()
        await async_wait_until(lambda: answered(b"after"), seconds=60, what="an answer after the restart")
        assert len(re.findall(r"event='open'", connector.err)) == 1, "it is still the same flow"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("target", ["dns.corp:53/tcp", "dns.corp:53/", "dns.corp:53/udp+tcp", "unix:/run/x/udp/"])
def test_targets_that_do_not_exist(deployment: Deployment, target: str) -> None:
    done = deployment.run("connections", "create", "dns", "--target", target, "--state", deployment.state)
    assert done.returncode == 2, done.stderr
