"""What systemd hears of a service: that it is ready, reloads, lives and stops."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from hybridrelay.cli.running import GracefulStop, run_until_stopped
from hybridrelay.cli.sd_notify import SystemdNotifier
from hybridrelay.streams.unix_sockets import short_path

from ..deployments import Deployment, Program

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
HEARD_SECONDS = 30.0


class Systemd:
    """The socket to which services send."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with short_path(path) as name:
            self._socket.bind(name)
        self._socket.settimeout(HEARD_SECONDS)

    def hear(self) -> dict[str, str]:
        """The next notification, by its fields."""
        return dict(line.split("=", 1) for line in self._socket.recv(65536).decode().splitlines())

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    systemd = Systemd(tmp_path / "notify")
    yield systemd
    systemd.close()


@pytest.mark.parametrize(
    ("more", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        *[({"WATCHDOG_USEC": text}, None) for text in ("", "0", "x", "-1", "²")],
    ],
)
def test_whether_there_is_a_watchdog(more: dict[str, str], seconds: float | None) -> None:
    assert SystemdNotifier({"NOTIFY_SOCKET": "/x", **more}).watchdog_seconds == seconds
    assert SystemdNotifier(more).watchdog_seconds is None


def test_a_path_that_is_longer_than_the_address_of_a_socket(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux has it")
    directory = tmp_path / ("a" * 200)
    directory.mkdir()
    systemd = Systemd(directory / "notify")
    try:
        SystemdNotifier({"NOTIFY_SOCKET": str(systemd.path)}).ready("fine")
        assert systemd.hear() == {"READY": "1", "STATUS": "fine"}
    finally:
        systemd.close()
    with caplog.at_level(logging.WARNING):
        SystemdNotifier({"NOTIFY_SOCKET": f"@{'a' * 200}"}).ready("fine")
    assert "too long" in caplog.text


async def test_the_watchdog_hears_the_event_loop(systemd: Systemd, autojump_clock: trio.testing.MockClock) -> None:
    notifier = SystemdNotifier({"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "3000000"})
    with trio.move_on_after(2.5):
        await notifier.keep_watchdog()
    assert [systemd.hear() for _ in range(3)] == [{"WATCHDOG": "1"}] * 3
    with trio.fail_after(1):
        await SystemdNotifier({}).keep_watchdog()


def test_without_systemd_nothing_is_said(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level(logging.WARNING):
        for environ in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "not/absolute"}):
            SystemdNotifier(environ).ready("ready")
        assert caplog.messages == []
        notifier = SystemdNotifier({"NOTIFY_SOCKET": str(tmp_path / "nowhere")})
        for _ in range(3):
            notifier.ready("ready")
    assert caplog.messages == ["systemd cannot be notified: No such file or directory"]


def test_a_name_in_the_abstract_namespace() -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux has it")
    name = f"hybridrelay test {os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        SystemdNotifier({"NOTIFY_SOCKET": "@" + name}).ready("fine")
        assert sock.recv(100) == b"READY=1\nSTATUS=fine"


def test_from_ready_to_its_end(systemd: Systemd, tmp_path: Path) -> None:
    with Deployment(tmp_path) as deployment:
        command = deployment.command("relay", "--state", deployment.state, "--ports", "http=127.0.0.1:0,https=off,"
                                     "probe=off,control=off,data=off")  # fmt: skip
        environment = {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": str(10**9)}
        with Program(command, environment=environment) as relay:
            heard = [systemd.hear(), systemd.hear()]
            (ready,) = (one for one in heard if "READY" in one)
            assert {"WATCHDOG": "1"} in heard
            relay.wait_for_line("^ready")
            assert ready["STATUS"] in relay.out
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            relay.process.send_signal(signal.SIGHUP)
            reloading = systemd.hear()
            assert reloading["RELOADING"] == "1"
            assert before <= int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            assert systemd.hear() == ready
            relay.process.send_signal(signal.SIGTERM)
            assert systemd.hear()["STOPPING"] == "1"
            assert relay.wait() == 0


@pytest.mark.parametrize("role", ["connector", "forward"])
def test_connector_and_forward_from_ready_to_their_end(systemd: Systemd, tmp_path: Path, role: str) -> None:
    with Deployment(tmp_path) as deployment:
        deployment.start_relay()
        published = deployment.create("orders", ("127.0.0.1", 9))
        file = published.connector if role == "connector" else published.application
        environment = {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": str(10**9)}
        command = deployment.command(role, "--connection-string-file", file)
        with Program(command, environment=environment) as program:
            program.wait_for_line("^ready")
            heard = [systemd.hear(), systemd.hear()]
            (ready,) = (one for one in heard if "READY" in one)
            assert {"WATCHDOG": "1"} in heard
            assert ready["STATUS"] == program.lines["out"][0]
            program.process.send_signal(signal.SIGHUP)
            assert systemd.hear()["RELOADING"] == "1"
            assert systemd.hear() == ready
            program.process.send_signal(signal.SIGTERM)
            assert systemd.hear()["STOPPING"] == "1"
            assert program.wait() == 0


@pytest.mark.parametrize("role", ["connector", "forward"])
def test_the_status_says_what_is_served_after_a_change(systemd: Systemd, tmp_path: Path, role: str) -> None:
    side = "connector" if role == "connector" else "application"
    config = tmp_path / "config.toml"
    with Deployment(tmp_path) as deployment:
        deployment.start_relay()
        for name in ("orders", "billing"):
            deployment.create(name, ("127.0.0.1", 9))
        config.write_text(f'[[connection]]\nfile = "orders.{side}"\n')
        environment = {"NOTIFY_SOCKET": str(systemd.path)}
        with Program(deployment.command(role, "--config", config), environment=environment) as program:
            assert systemd.hear()["READY"] == "1"
            config.write_text(f'{config.read_text()}[[connection]]\nfile = "billing.{side}"\n')
            after = systemd.hear()
            assert after["READY"] == "1"
            assert after["STATUS"].startswith(f"ready {role} orders=127.0.0.1:")
            assert " billing=127.0.0.1:" in after["STATUS"]
            assert program.terminate() == 0


def test_a_program_that_does_not_serve_yet_is_not_ready_after_a_reload(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(systemd.path))
    stop, reloaded = GracefulStop(1.0), 0

    async def reload() -> None:
        nonlocal reloaded
        await trio.lowlevel.checkpoint()
        reloaded += 1

    async def main() -> None:
        await stop.unless_stopping(reload)()
        await stop.say_ready("test", [])
        await stop.unless_stopping(reload)()

    run_until_stopped(main, stop=stop)
    assert reloaded == 2
    assert systemd.hear() == {"READY": "1", "STATUS": "ready test"}
    assert systemd.hear()["RELOADING"] == "1"
    assert systemd.hear() == {"READY": "1", "STATUS": "ready test"}
