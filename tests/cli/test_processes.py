"""The long-running commands as processes: the ready line, the path through all three, and a graceful end."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from ..deployments import HYBRIDRELAY, PORT_NAMES, Deployment, Program, wait_for_port
from ..waiting import async_wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the relay runs on Linux")

STOP_SIGNALS = [signal.SIGTERM, signal.SIGINT]
ANY_PORTS = ",".join(f"{name}=0" for name in PORT_NAMES)


async def _echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)
    await stream.send_eof()


async def _serve_echo(nursery: trio.Nursery) -> tuple[str, int]:
    listeners = await nursery.start(partial(trio.serve_tcp, _echo, 0, host="127.0.0.1"))
    address: tuple[str, int] = listeners[0].socket.getsockname()
    return address


async def _say(port: int, text: bytes) -> bytes:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(text)
        await stream.send_eof()
        return b"".join([data async for data in stream])


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_relay_says_what_it_serves_and_ends_gracefully(deployment: Deployment, number: signal.Signals) -> None:
    relay = deployment.start("relay", "--state", deployment.state, "--host", "127.0.0.1", "--ports", ANY_PORTS)
    (line,) = relay.lines["out"]
    fields = dict(field.split("=", 1) for field in line.split(" ")[2:])

    assert line.startswith("ready relay ")
    assert fields.keys() == {*PORT_NAMES, "pin"}
    assert fields["pin"].startswith("sha256:")
    for name in PORT_NAMES:
        host, _, port = fields[name].rpartition(":")
        assert host == "127.0.0.1"
        wait_for_port(int(port), relay)
    relay.process.send_signal(number)

    assert relay.wait() == 0
    assert "Traceback" not in relay.err


def test_a_relay_on_ipv6(deployment: Deployment) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    ports = "probe=[::1]:0,control=off,data=off,https=off,http=[::1]:0"
    relay = deployment.start("relay", "--state", deployment.state, "--ports", ports)

    assert re.fullmatch(r"ready relay (?=.*\bprobe=\[::1\]:\d+ )(?=.*\bhttp=\[::1\]:\d+ ).*pin=\S+", relay.out)


def test_a_relay_from_its_configuration_file(deployment: Deployment) -> None:
    ports = "".join(f"{name} = 0\n" for name in PORT_NAMES)
    config = deployment.directory / "relay.toml"
    config.write_text(f'state = "state"\nhost = "127.0.0.1"\nlog-json = true\n[ports]\n{ports}')
    relay = deployment.start("relay", "--config", config)
    relay.terminate()

    assert deployment.state.is_dir()
    for line in relay.lines["err"]:
        assert {"time", "level", "logger", "message"} <= json.loads(line).keys()


def test_a_port_that_is_taken(deployment: Deployment) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ports = f"probe=0,control=0,data={port},http=0,https=0"
        done = deployment.run("relay", "--state", deployment.state, "--host", "127.0.0.1", "--ports", ports)

    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(
        rf"^hybridrelay: error: port data cannot listen on 127\.0\.0\.1:{port}: ", done.stderr, re.MULTILINE
    )
    assert re.search(r"^  try: .*--ports", done.stderr, re.MULTILINE)


def test_a_second_relay_on_the_same_state_directory(deployment: Deployment) -> None:
    """It is refused before it touches anything; commands go on changing the state of the one that runs."""
    first = deployment.start_relay()
    published = deployment.create("orders", ("127.0.0.1", 9))

    def state() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in deployment.state.iterdir() if path.is_file()}

    before = state()
    done = deployment.run("relay", "--state", deployment.state, "--host", "127.0.0.1", "--ports", ANY_PORTS)

    assert (done.returncode, done.stdout) == (2, "")
    error, remedy = done.stderr.splitlines()
    assert error.startswith(f"hybridrelay: error: another relay runs on the state directory {deployment.state}")
    assert error.endswith(f"(process {first.pid})")
    assert remedy.startswith("  try: stop that one first")
    assert state() == before
    regenerate = ("keys", "regenerate", published.name, "--rule", "application", "--key", "primary")
    assert deployment.run(*regenerate, "--state", deployment.state).returncode == 0
    assert state() != before

    first.kill()  # leaves the file, and takes the lock with it
    deployment.start_relay()


def _documented_statistics(role: str) -> set[str]:
    """The names that the table in docs/operating.md has for this role."""
    text = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    rows = re.findall(r"^\| (`.+?`) \| (all|relay|connector, forward) \|", text, re.MULTILINE)
    return {
        name for names, whose in rows if whose == "all" or role in whose for name in re.findall(r"`(\w+)`", names)
    }


@pytest.mark.parametrize("number", STOP_SIGNALS)
async def test_the_three_roles_end_gracefully(
    deployment: Deployment, nursery: trio.Nursery, number: signal.Signals
) -> None:
    relay = deployment.start_relay()
    published = deployment.create("orders", await _serve_echo(nursery))
    connector = deployment.start_connector(published)
    forward = deployment.start_forward(published, mode="auto")

    assert re.fullmatch(r"ready connector orders=127\.0\.0\.1:\d+", connector.out)
    assert re.fullmatch(r"ready forward orders=127\.0\.0\.1:\d+", forward.program.out)
    with trio.fail_after(30):
        assert await _say(forward.port, b"hello") == b"hello"
    for role, program in (("forward", forward.program), ("connector", connector), ("relay", relay)):
        found = program.statistics()
        assert found["control_sessions"] == (2 if role == "relay" else 1)
        assert found.keys() <= _documented_statistics(role)
    for program in (forward.program, connector, relay):
        program.process.send_signal(number)

        assert program.wait() == 0, program.err
        assert "hybridrelay: error" not in program.err
    nursery.cancel_scope.cancel()


#: Runs the command line, and prints how many objects the interpreter's last collections examine.
_COUNTING = """
import atexit, gc, sys
atexit.register(lambda: print("examined:", len(gc.get_objects()), flush=True))
from hybridrelay.cli import main
sys.exit(main())
"""


def test_what_a_program_has_loaded_is_not_examined_when_it_ends(tmp_path: Path) -> None:
    """This would take more than a quarter of the processor time of a program that is only started and ended."""
    command = (sys.executable, "-c", _COUNTING, "relay", "--state", tmp_path, "--host", "127.0.0.1")
    with Program((*command, "--ports", ANY_PORTS), name="relay") as relay:
        relay.wait_for_line("^ready")
        assert relay.terminate() == 0
        examined = relay.wait_for_line(r"examined: (\d+)")
    assert int(examined[1]) < 5_000, "instead of more than a hundred thousand"


async def test_the_log_as_json_and_the_audit_in_it(deployment: Deployment, nursery: trio.Nursery) -> None:
    relay = deployment.start_relay("--log-json", "--log-level", "debug")
    published = deployment.create("orders", await _serve_echo(nursery))
    connector = deployment.start_connector(published, arguments=["--log-json", "--log-level", "debug"])
    forward = deployment.start_forward(published)
    with trio.fail_after(30):
        await _say(forward.port, b"hello")

    async def audited() -> list[dict[str, object]]:
        entries = [json.loads(line) for line in connector.lines["err"]]
        return [entry["fields"] for entry in entries if entry["logger"] == "hybridrelay.audit"]

    async def both() -> list[dict[str, object]]:
        lines = await audited()
        return lines if len(lines) > 1 else []

    opened, closed = await async_wait_until(both, seconds=30, what="two lines in the audit log")

    assert (opened["event"], opened["connection"], opened["route"]) == ("open", "orders", "tcp at 127.0.0.1")
    assert opened["id"] == closed["id"]
    assert (closed["event"], closed["bytes_to_target"], closed["bytes_to_client"]) == ("closed", 5, 5)
    assert (closed["to_target"], closed["to_client"]) == ("finished", "finished")
    relay.terminate()
    assert all(json.loads(line)["message"] for line in relay.lines["err"])
    nursery.cancel_scope.cancel()


async def test_no_secret_is_ever_printed(deployment: Deployment, nursery: trio.Nursery) -> None:
    """The log level is the most verbose one, and a key is revoked while it is in use."""
    relay = deployment.start_relay("--log-level", "debug")
    published = deployment.create("orders", await _serve_echo(nursery))
    connector = deployment.start_connector(published, arguments=["--log-level", "debug"])
    forward = deployment.start("forward", "--connection-string-file", published.application, "--log-level", "debug")
    rule = ("--rule", "application", "--key", "primary")
    revoked = deployment.run("keys", "revoke", "orders", *rule, "--state", deployment.state)
    forward.wait_for_line("hybridrelay: error: .*shared access key", where="err")
    secrets = set()
    for path in (published.connector, published.application, published.authority):
        secrets.update(re.findall(r'(?:Key=|key": ")([A-Za-z0-9+/=]{20,})', path.read_text()))

    assert len(secrets) >= 5
    programs = (relay, connector, forward)
    for program in programs:
        program.terminate()
    deployment.programs.remove(forward)  # it has ended with its key, and its log has a traceback
    texts = [revoked.stdout, revoked.stderr, *(text for program in programs for text in (program.out, program.err))]
    assert not [secret for secret in secrets for text in texts if secret in text]
    nursery.cancel_scope.cancel()


async def test_several_pairs_of_one_forward(deployment: Deployment, nursery: trio.Nursery) -> None:
    deployment.start_relay()
    published = [deployment.create(name, await _serve_echo(nursery)) for name in ("orders", "billing")]
    connector = deployment.start_connector(*published)
    forward = deployment.start_forward(*published)

    assert [field.split("=")[0] for field in connector.out.split(" ")[2:]] == ["orders", "billing"]
    assert [field.split("=")[0] for field in forward.program.out.split(" ")[2:]] == ["orders", "billing"]
    with trio.fail_after(30):
        for port in forward.ports:
            assert await _say(port, b"hello") == b"hello"
    nursery.cancel_scope.cancel()


async def test_an_identity_that_is_denied_stays_denied(deployment: Deployment, nursery: trio.Nursery) -> None:
    deployment.start_relay()
    published = deployment.create("orders", await _serve_echo(nursery))
    denied = deployment.directory / "deny-list"
    denied.write_text("# nobody yet\n")
    connector = deployment.start_connector(published, arguments=["--deny-list", str(denied)])
    forward = deployment.start_forward(published)
    with trio.fail_after(30):
        assert await _say(forward.port, b"hello") == b"hello"
    denied.write_text("application\n")
    connector.wait_for_line("policy.refused: .* label=application ", where="err")
    another = deployment.start_forward(published).program
    another.wait_for_line("this identity is on the deny list", where="err")
    assert another.process.poll() is None, "it may be admitted again"
    nursery.cancel_scope.cancel()


def test_a_probe_reports_every_port_as_a_table_and_as_json(deployment: Deployment) -> None:
    relay = deployment.start_relay()
    published = deployment.create("orders", ("127.0.0.1", 1))
    probe = ("probe", "--connection-string-file", published.application)
    table, as_json = deployment.run(*probe), deployment.run(*probe, "--json", "--mode", "websocket")

    assert table.returncode == as_json.returncode == 0
    assert "Result: 127.0.0.1: use tcp" in table.stdout
    assert "Only routes were tried, no key and no connector" in table.stdout
    assert json.loads(as_json.stdout)["chosen"] == "wss"
    relay.terminate()
    gone = deployment.run(*probe)

    assert gone.returncode == 1
    assert "Result: the relay 127.0.0.1 cannot be reached" in gone.stdout
    assert "Only routes" not in gone.stdout


def test_a_string_from_standard_input(deployment: Deployment) -> None:
    deployment.start_relay()
    published = deployment.create("orders", ("127.0.0.1", 1))
    command = (*HYBRIDRELAY, "probe", "--connection-string-file", "-")
    with Program(command, text_in=published.application.read_text()) as probe:
        assert probe.wait() == 0


def test_a_wrong_key_ends_a_forward_with_the_reason(deployment: Deployment) -> None:
    deployment.start_relay()
    published = deployment.create("orders", ("127.0.0.1", 1))
    string = published.application.read_text()
    published.application.write_text(re.sub("SharedAccessKey=[^;]+", "SharedAccessKey=d3Jvbmc=", string))
    done = deployment.run("forward", "--connection-string-file", published.application)

    assert (done.returncode, done.stdout) == (1, "")
    assert "shared access key is wrong" in done.stderr
    assert re.search(r"^  try: ", done.stderr, re.MULTILINE)


async def test_a_forward_ends_with_its_last_key(deployment: Deployment, nursery: trio.Nursery) -> None:
    """One that has two closes the port of the first whose key is revoked, and serves on; then it ends."""
    deployment.start_relay()
    published = [deployment.create(name, await _serve_echo(nursery)) for name in ("orders", "billing")]
    deployment.start_connector(*published)
    forward = deployment.start_forward(*published)
    with trio.fail_after(30):
        assert await _say(forward.ports[0], b"hello") == b"hello"
    rule = ("--rule", "application", "--key", "primary", "--state", deployment.state)
    assert deployment.run("keys", "revoke", "orders", *rule).returncode == 0
    forward.program.wait_for_line(
        "error .* the local port for it is closed: connection=orders .*key was revoked or regenerated", where="err"
    )
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream("127.0.0.1", forward.ports[0])
    with trio.fail_after(30):
        assert await _say(forward.ports[1], b"hello") == b"hello"
    assert deployment.run("keys", "revoke", "billing", *rule).returncode == 0

    assert await trio.to_thread.run_sync(forward.program.wait) == 1
    assert "hybridrelay: error: billing: the shared access key was revoked or regenerated" in forward.program.err
    assert re.search(r"^  try: write a valid key", forward.program.err, re.MULTILINE)
    nursery.cancel_scope.cancel()


def test_a_probe_that_watches_reports_until_stopped(deployment: Deployment) -> None:
    deployment.start_relay()
    published = deployment.create("orders", ("127.0.0.1", 9))
    command = [
        *HYBRIDRELAY,
        "probe",
        "--connection-string-file",
        str(published.application),
        "--watch",
        "1",
        "--json",
    ]

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        reports = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGTERM)

        assert process.wait(20) == 0
    assert reports[0]["time"] <= reports[1]["time"]
    assert {report["chosen"] for report in reports} == {"tcp"}
