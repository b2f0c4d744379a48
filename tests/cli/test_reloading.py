"""SIGHUP to the long-running commands, as processes."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from hybridrelay.security import load_connection_string

from ..certificates import CertificateAuthority
from ..deployments import HYBRIDRELAY, PORT_NAMES, Deployment, Program, Published, free_port
from ..waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGHUP there")

ANY_PORTS = ",".join(f"{name}=0" for name in PORT_NAMES)
SECONDS = 30


def hang_up(program: Program, says: str, before_that: Callable[[], object] = lambda: None) -> None:
    """SIGHUP; returns when the log has one more line with this in it. A file that the program watches is changed by
    `before_that`, because the program may have read it before the signal."""

    def lines() -> int:
        return sum(bool(re.search(says, line)) for line in program.lines["err"])

    before = lines()
    before_that()
    program.process.send_signal(signal.SIGHUP)
    try:
        wait_until(lambda: lines() > before, seconds=SECONDS, what=says)
    except TimeoutError:
        raise AssertionError(f"{program.name} did not say {says!r}\n{program.err}") from None
    assert program.process.poll() is None


def serial_shown(port: int) -> int:
    """The serial number of the certificate on port 443."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as sock,
        context.wrap_socket(sock, server_hostname="relay.example.com") as tls,
    ):
        shown = tls.getpeercert(binary_form=True)
    from cryptography import x509

    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def test_a_relay_reloads_its_certificate(deployment: Deployment) -> None:
    authority = CertificateAuthority()
    certificate, key = deployment.directory / "fullchain.pem", deployment.directory / "privkey.pem"

    def renew() -> None:
        new = authority.issue("relay.example.com")
        certificate.write_bytes(new[0])
        key.write_bytes(new[1])

    renew()
    relay = deployment.start_relay("--tls-certificate", str(certificate), "--tls-key", str(key))
    port = deployment.ports["https"]
    first = serial_shown(port)
    hang_up(relay, "The certificate has not changed")
    assert serial_shown(port) == first
    renew()
    hang_up(relay, "The certificate was reloaded")
    second = serial_shown(port)
    assert second != first
    key.write_bytes(authority.issue("relay.example.com")[1])
    hang_up(relay, r"not reloaded; what was read before stays in force: .*\.pem")
    assert serial_shown(port) == second
    for _ in range(20):
        relay.process.send_signal(signal.SIGHUP)
    assert serial_shown(port) == second
    renew()
    hang_up(relay, "The certificate was reloaded")
    assert serial_shown(port) not in (first, second)
    assert relay.terminate() == 0


def test_a_relay_without_anything_to_reload(deployment: Deployment) -> None:
    relay = deployment.start("relay", "--state", deployment.state, "--host", "127.0.0.1", "--ports", ANY_PORTS)
    hang_up(relay, "no --config or --tls-certificate to reload")
    assert relay.terminate() == 0


def test_a_relay_listens_elsewhere_and_streams_continue(deployment: Deployment) -> None:
    """The ports, the host and a first certificate, in its configuration file."""
    directory = deployment.directory
    certificate, config = directory / "fullchain.pem", directory / "relay.toml"
    certificate.write_bytes(b"".join(CertificateAuthority().issue("relay.example.com")))
    config.write_text("")
    relay = deployment.start_relay("--config", str(config))
    relay.terminate()
    deployment.programs.remove(relay)
    ports = dict(deployment.ports)
    free, taken = free_port(), socket.create_server(("127.0.0.1", 0))

    def write(more: str = "", **changed: object) -> None:
        found = "\n".join(f'{name} = "{value}"' for name, value in {**ports, **changed}.items())
        config.write_text(f'state = "{deployment.state}"\n{more}\n[ports]\n{found}\n')

    # The target is a socket of this test, which answers what it gets.
    with taken, socket.create_server(("127.0.0.1", 0)) as target:
        write('host = "127.0.0.1"')
        relay = deployment.start("relay", "--config", config)
        published = deployment.create("orders", target.getsockname())
        deployment.start_connector(published)
        forward = deployment.start_forward(published)
        with (
            socket.create_connection(("127.0.0.1", forward.port), timeout=SECONDS) as stream,
            target.accept()[0] as reached,
        ):

            def echoes() -> None:
                for one, other in ((stream, reached), (reached, stream)):
                    one.sendall(b"hello")
                    assert other.recv(5, socket.MSG_WAITALL) == b"hello"

            reached.settimeout(SECONDS)
            echoes()
            first = serial_shown(ports["https"])
            write('host = ["127.0.0.1", "127.0.0.2"]\ntls-certificate = "fullchain.pem"', probe="off", http=free)
            hang_up(relay, "options.reloaded.*changed=host,ports,tls-certificate")
            assert serial_shown(ports["https"]) != first
            socket.create_connection(("127.0.0.2", ports["data"]), timeout=SECONDS).close()
            socket.create_connection(("127.0.0.1", free), timeout=SECONDS).close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", ports["probe"]), timeout=SECONDS)
            echoes()
            write('host = ["127.0.0.1", "127.0.0.2"]\ntls-certificate = "fullchain.pem"\nworkers = 0',
                  http=taken.getsockname()[1])  # fmt: skip
            hang_up(relay, "reload.failed: .*port http cannot listen on .*in use")
            relay.wait_for_line("restart.needed: .*changed=workers", where="err")
            socket.create_connection(("127.0.0.1", free), timeout=SECONDS).close()
            echoes()
            write("audit-dir = 'audit'\nhost = '127.0.0.1'")
            hang_up(relay, "options.reloaded.*changed=.*audit-dir")
            # A file that is being written changes nothing.
            for text in ("", "[ports]\nprobe = 0\n"):
                config.write_text(text)
                hang_up(relay, "reload.failed: .*no longer names the state directory")
            write("audit-dir = 'audit'\nhost = '127.0.0.1'")
            hang_up(relay, "options.unchanged")
            echoes()
    assert relay.terminate() == 0
    verified = deployment.run("audit", "verify", directory / "audit")
    assert verified.returncode == 0, verified.stdout


@pytest.fixture
def published(deployment: Deployment) -> Published:
    """A relay runs."""
    deployment.start_relay()
    return deployment.create("orders", ("127.0.0.1", 9))


def use_key(deployment: Deployment, published: Published, role: str, key: str) -> None:
    done = deployment.run(
        "keys", "use", published.name, "--rule", role, "--key", key, "--state", deployment.state,
        "--update", getattr(published, role),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_connector_reloads_strings_and_deny_list(deployment: Deployment, published: Published) -> None:
    denied = deployment.directory / "deny"
    denied.write_text("somebody\n")
    connector = deployment.start_connector(published, arguments=["--deny-list", str(denied)])
    hang_up(connector, r"reloaded: file=\S*orders.connector$")
    hang_up(connector, "The deny list was read: file=.*deny")
    use_key(deployment, published, "connector", "secondary")
    hang_up(connector, "orders.connector changed='shared access key'")
    connector.wait_for_line("Only this key is in use now: connection=orders", where="err")
    good = published.connector.read_bytes()
    for bad, says in (
        (b"", "is empty"),
        (good.replace(b"SharedAccessKey=", b"SharedAccessKye="), "SharedAccessKye"),
        (good.replace(b"EntityPath=orders", b"EntityPath=billing"), "is a connector's for billing"),
        (published.application.read_bytes(), "it is an application's"),
    ):
        published.connector.write_bytes(bad)
        denied.write_text("\x07\n")
        hang_up(connector, f"reload.failed: .*orders.connector.*{says}")
        hang_up(connector, "reload.failed: .*deny")
    published.connector.unlink()
    hang_up(connector, "reload.failed: .*orders.connector: No such file")
    published.connector.write_bytes(good)
    hang_up(connector, r"reloaded: file=\S*orders.connector$")
    assert connector.terminate() == 0


def test_a_first_deny_list_status_and_audit_log(deployment: Deployment) -> None:
    """Each one in a connector's configuration file begins without a restart, and ends when it is removed."""
    directory = deployment.directory
    config, denied, status, audit = (directory / name for name in ("connector.toml", "deny", "status.sock", "audit"))
    deployment.start_relay()
    with socket.create_server(("127.0.0.1", 0)) as target:
        published = deployment.create("orders", target.getsockname())

        def writing(*lines: str) -> Callable[[], object]:
            return partial(
                config.write_text, "\n".join([f'connection-string-file = "{published.connector}"', *lines])
            )

        writing()()
        connector = deployment.start("connector", "--config", config)
        port = deployment.start_forward(published).port
        open_stream = partial(socket.create_connection, ("127.0.0.1", port), timeout=SECONDS)
        with open_stream() as first, target.accept()[0] as reached:
            good = ('status = "status.sock"', 'audit-dir = "audit"', 'audit-required = "file"', "audit-keep = 7")
            says = "options.reloaded: .*changed=status,audit-dir,audit-keep,audit-required"
            hang_up(connector, says, writing(*good))
            assert deployment.run("status", "--from", status).returncode == 0
            with open_stream(), target.accept()[0]:
                pass
            # A mistake changes nothing, and other options are used.
            (directory / "file").write_text("")
            denied.write_text("somebody\n")
            bad = ('status = "missing/status.sock"', 'audit-dir = "file"', 'deny-list = "deny"')
            hang_up(connector, "reload.failed: .*missing does not exist", writing(*bad))
            connector.wait_for_line("reload.failed: .*connector.toml: line 3: audit-dir.*file", where="err")
            connector.wait_for_line("options.reloaded: .*changed=deny-list", where="err")
            status_now = deployment.run("status", "--from", status, "--json")
            assert status_now.returncode == 1
            assert [one["code"] for one in json.loads(status_now.stdout)["problems"]] == ["reload-failed"] * 2
            for one, other in ((first, reached), (reached, first)):
                one.sendall(b"still")
                assert other.recv(5, socket.MSG_WAITALL) == b"still"
            denied.write_text("application\n")
            first.settimeout(SECONDS)
            with pytest.raises(ConnectionResetError):
                first.recv(1)
            hang_up(connector, "options.reloaded: .*changed=deny-list,status,audit-dir", writing("grace = 7"))
            connector.wait_for_line("restart.needed: .*changed=grace", where="err")
        assert not status.exists()
        with open_stream(), target.accept()[0]:
            pass
    verified = deployment.run("audit", "verify", audit)
    assert verified.returncode == 0, verified.stdout
    shown = deployment.run("audit", "export", audit, "--format", "jsonl").stdout
    events = [json.loads(line)["event"] for line in shown.splitlines()]
    assert events.count("stream.opened") == 1
    assert "options.reloaded" in events
    assert connector.terminate() == 0


def test_a_forward_reloads_its_strings(deployment: Deployment, published: Published) -> None:
    """Each for itself: one that cannot be used keeps no other from being taken up."""
    other = deployment.create("billing", ("127.0.0.1", 9))
    deployment.start_connector(published, other)
    forward = deployment.start_forward(published, other).program
    hang_up(forward, r"reloaded: file=\S*orders.application$")
    use_key(deployment, published, "application", "secondary")
    good = other.application.read_bytes()
    other.application.write_bytes(good[:-500])
    hang_up(forward, "orders.application changed='shared access key'")
    forward.wait_for_line("Only this key is in use now: connection=orders", where="err")
    forward.wait_for_line("reload.failed: .*billing.application", where="err")
    other.application.write_bytes(good)
    use_key(deployment, other, "application", "secondary")
    hang_up(forward, "Only this key is in use now: connection=billing")
    assert forward.terminate() == 0


def test_what_a_relay_has_refused_is_requested_again_at_once(deployment: Deployment, published: Published) -> None:
    """No file has changed, but the hybrid connection was imported in the meantime."""
    directory = deployment.directory
    files = {role: directory / f"late.{role}" for role in ("connector", "application", "authority", "relay")}
    done = deployment.run(
        "connections", "create", "late", "--target", "127.0.0.1:9", "--endpoint", "127.0.0.1",
        *(part for role, file in files.items() for part in (f"--{role}-file", file)),
        "--relay-pin", load_connection_string(published.connector).relay_pins[0],
        "--public-ports", ",".join(f"{name}={port}" for name, port in deployment.ports.items()),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    connector = deployment.start_connector(published, files["connector"])
    assert "late" not in connector.out
    assert deployment.run("connections", "import", files["relay"], "--state", deployment.state).returncode == 0
    hang_up(connector, "registered at a relay: connection=late")
    assert connector.terminate() == 0


def test_what_cannot_be_read_again(deployment: Deployment, published: Published) -> None:
    environment = {"HYBRIDRELAY_CONNECTION_STRING": published.connector.read_text().strip()}
    connector = deployment.start("connector", environment=environment)
    hang_up(connector, "HYBRIDRELAY_CONNECTION_STRING cannot be read again: a change needs a restart")


def test_a_changed_identity_needs_no_restart(deployment: Deployment, published: Published) -> None:
    connector = deployment.start_connector(published)
    reissued = deployment.directory / "reissued"
    issue = ("connections", "issue", "orders", "--role", "connector", "--label", "connector")
    done = deployment.run(*issue, "--authority-file", published.authority, "--out", reissued)
    assert done.returncode == 0, done.stderr
    assert load_connection_string(reissued).identity != load_connection_string(published.connector).identity
    shutil.copyfile(reissued, published.connector)
    connector.wait_for_line(r"reloaded: file=\S*orders.connector changed=identity", where="err")
    hang_up(connector, r"reloaded: file=\S*orders.connector$")


@pytest.mark.parametrize("prefix", [(), ("nohup",)])
def test_a_signal_before_the_program_is_ready(
    deployment: Deployment, published: Published, prefix: tuple[str, ...]
) -> None:
    """It waits for a relay that is not there: it takes up another key meanwhile, and is not ended by the signal."""
    if prefix and shutil.which(prefix[0]) is None:
        pytest.skip("no nohup")
    relay = deployment.programs[0]
    relay.terminate()
    command: list[str | Path] = [*prefix, *HYBRIDRELAY, "connector", "--connection-string-file", published.connector]
    with Program(command, name="connector") as connector:
        connector.wait_for_line("127.0.0.1", where="err")  # tried, and not there
        use_key(deployment, published, "connector", "secondary")
        hang_up(connector, "reloaded: .* changed='shared access key'")
        deployment.programs.remove(relay)
        deployment.start_relay()
        connector.wait_for_line("^ready connector")
        revoke = ("keys", "revoke", "orders", "--rule", "connector", "--key", "primary")
        assert deployment.run(*revoke, "--state", deployment.state).returncode == 0
        connector.wait_for_line("Only this key is in use now", where="err")
        hang_up(connector, r"reloaded: file=\S*orders.connector$")
        assert connector.terminate() == 0


def test_a_signal_while_it_stops(deployment: Deployment, published: Published) -> None:
    connector = deployment.start_connector(published)
    connector.process.send_signal(signal.SIGTERM)
    connector.process.send_signal(signal.SIGHUP)
    assert connector.wait() == 0
