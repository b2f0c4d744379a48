"""Machines that lack something in their network: IPv6 on the loopback interface, local ports. Needs root."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from ..deployments import PORT_NAMES, Deployment, Program, skip_unless_ci

ANY_PORTS = ",".join(f"{name}=0" for name in PORT_NAMES)

#: Leaves no local port. The range is then the first two that no connection has yet, and they are held: a program may
#: have been given any of the system's local ports before.
HOLD_PORTS = """
import pathlib, socket, threading

def narrow_and_hold(first, kind=socket.SOCK_STREAM):
    pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"{first} {first + 1}")
    held = [socket.socket(type=kind), socket.socket(type=kind)]
    try:
        for number, one in enumerate(held, first):
            one.bind(("", number))
    except OSError:
        for one in held:
            one.close()
        return []
    return held

held = next(filter(None, map(narrow_and_hold, range(60000, 60100, 2))))
"""
AND_WAIT = """
print("held", flush=True)
threading.Event().wait()
"""


class Machine:
    """Network and hosts file of its own, in which commands run one after the other or beside each other."""

    def __init__(self, directory: Path) -> None:
        hosts = directory / "hosts"
        hosts.write_text("127.0.0.1 localhost\n::1 localhost\n")
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", f"mount --bind {hosts} /etc/hosts && echo ready && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        self.works = self._holder.stdout.readline() == "ready\n"

    @property
    def wrapper(self) -> tuple[str, ...]:
        """Starts a command there."""
        return ("nsenter", f"--target={self._holder.pid}", "--net", "--mount")

    def run(self, script: str) -> None:
        subprocess.run([*self.wrapper, "sh", "-c", script], check=True, stdout=subprocess.DEVNULL)

    def close(self) -> None:
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.stdout.close()
        self._holder.wait()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if sys.platform != "linux" or not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        pytest.skip("needs Linux with unshare, nsenter and ip")
    machine = Machine(tmp_path)
    try:
        if not machine.works:
            skip_unless_ci("no namespaces can be made here")
        machine.run("ip link set lo up")
        yield machine
    finally:
        machine.close()


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path) as deployment:
        yield deployment


def test_localhost_without_ipv6(machine: Machine, deployment: Deployment) -> None:
    """The hosts file names ::1, and the interface does not have it: as in many containers."""
    machine.run("echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6")
    relay = deployment.start(
        "relay", "--state", deployment.state, "--host", "localhost", "--ports", ANY_PORTS, wrapper=machine.wrapper
    )
    assert "probe=127.0.0.1:" in relay.out
    relay.wait_for_line("The program cannot listen on one of its addresses.* address=::1", where="err")
    published = deployment.create("orders", ("127.0.0.1", 1), endpoint="localhost")
    forward = deployment.start(
        "forward", "--connection-string-file", published.application, "--listen", "localhost:0",
        wrapper=machine.wrapper,
    )  # fmt: skip
    assert re.search(r"orders=127\.0\.0\.1:\d+", forward.out)
    forward.wait_for_line("The program cannot listen on one of its addresses.* address=::1", where="err")


def test_no_address_of_several(machine: Machine, deployment: Deployment) -> None:
    machine.run("ip link set lo down")
    machine.run("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; ip address flush dev lo")
    done = subprocess.run(
        [*machine.wrapper, sys.executable, "-m", "hybridrelay", "relay", "--state", str(deployment.state),
         "--host", "::1", "--ports", ANY_PORTS],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "give an address that an interface of this machine has" in done.stderr


async def test_without_local_ports(machine: Machine, deployment: Deployment) -> None:
    """Every local port is in use, so that connecting fails. Neither the target nor the relay is blamed."""
    deployment.start(
        "relay", "--state", deployment.state, "--host", "127.0.0.1", "--ports", ANY_PORTS, wrapper=machine.wrapper
    )
    published = deployment.create("orders", ("127.0.0.1", 5))
    connector = deployment.start(
        "connector", "--connection-string-file", published.connector, wrapper=machine.wrapper
    )
    forward = deployment.start("forward", "--connection-string-file", published.application, wrapper=machine.wrapper)
    port = int(re.findall(r"127\.0\.0\.1:(\d+)", forward.out)[0])
    # The source port of the application is outside of every range.
    script = f"""{HOLD_PORTS}
sock = socket.create_connection(("127.0.0.1", {port}), source_address=("127.0.0.1", 20000))
sock.sendall(b"x")
try:
    sock.recv(1)
except ConnectionResetError:
    pass
"""
    command = [*machine.wrapper, sys.executable, "-c", script]
    await trio.run_process(command, capture_stdout=True, capture_stderr=True)
    connector.wait_for_line("has no local port left for the connection' remedy=.widen", where="err")
    await connector.logs("reason='out-of-resources'")
    assert "unreachable" not in connector.err


async def test_without_local_udp_ports(machine: Machine, deployment: Deployment) -> None:
    """Every local UDP port is in use, so that a flow gets none. The target is not blamed."""
    deployment.start(
        "relay", "--state", deployment.state, "--host", "127.0.0.1", "--ports", ANY_PORTS, wrapper=machine.wrapper
    )
    published = deployment.create("dns", "127.0.0.1:5/udp")
    connector = deployment.start(
        "connector", "--connection-string-file", published.connector, *deployment.datagrams_allowed(),
        wrapper=machine.wrapper,
    )  # fmt: skip
    forward = deployment.start(
        "forward", "--connection-string-file", published.application, "--listen", "127.0.0.1:0/udp",
        wrapper=machine.wrapper,
    )  # fmt: skip
    port = int(re.findall(r"127\.0\.0\.1:(\d+)/udp", forward.out)[0])
    # The source port of the application is outside of every range.
    script = f"""{HOLD_PORTS}
held = narrow_and_hold(60200, socket.SOCK_DGRAM)
assert held
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 20000))
sock.sendto(b"request", ("127.0.0.1", {port}))
{AND_WAIT}"""
    with Program([*machine.wrapper, sys.executable, "-c", script]) as holder:
        holder.wait_for_line("held")
        connector.wait_for_line("target.out-of-resources.*has no local UDP port left' remedy=.widen", where="err")
        await connector.logs("reason='out-of-resources'")
        assert "unreachable" not in connector.err


def test_without_local_ports_for_the_relay(machine: Machine, deployment: Deployment) -> None:
    """Connector and forward say why they cannot connect to their relay, and continue when there are ports again."""
    deployment.start(
        "relay", "--state", deployment.state, "--host", "127.0.0.1", "--ports", ANY_PORTS, wrapper=machine.wrapper
    )
    published = deployment.create("orders", ("127.0.0.1", 5))
    commands: list[list[str | Path]] = [
        ["connector", "--connection-string-file", published.connector],
        ["forward", "--connection-string-file", published.application, "--listen", "127.0.0.1:20001"],
    ]
    with contextlib.ExitStack() as stack:
        holder = stack.enter_context(Program([*machine.wrapper, sys.executable, "-c", HOLD_PORTS + AND_WAIT]))
        holder.wait_for_line("held")
        programs = [
            stack.enter_context(Program([*machine.wrapper, *deployment.command(*command)])) for command in commands
        ]
        for program in programs:
            program.wait_for_line("has no local port left for the connection; widen", where="err")
        holder.close()
        machine.run("echo 50000 50999 > /proc/sys/net/ipv4/ip_local_port_range")
        for program in programs:
            program.wait_for_line("session.opened", where="err")
            assert "network address changed" not in program.err
