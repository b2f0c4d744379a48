"""Whatever is wrong gets one clear line and a non-zero exit, or resets the application: nothing hangs."""

from __future__ import annotations

import re
import shutil
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay.relay.store.schema import SCHEMA_VERSION
from hybridrelay.relay.store.state_dir import REGISTRY_FILE
from hybridrelay.security import (
    ConnectionString,
    Role,
    create_authority,
    generate_key,
    parse_connection_string_untrusted,
)

from ..deployments import HYBRIDRELAY, PORT_NAMES, Deployment, Program, Published, free_port
from ..waiting import patience
from .targets import echo, is_served, serve

FAILED, USAGE = 1, 2
ENDS_WITHIN_SECONDS = 30

Change = Callable[["Case"], ConnectionString]


@attrs.frozen
class Case:
    """What a wrong connection string is made from: the right ones."""

    mine: ConnectionString
    #: The string of the other role.
    others: ConnectionString


def load(file: Path) -> ConnectionString:
    return parse_connection_string_untrusted(file.read_text())


def write(file: Path, text: str) -> Path:
    file.touch(mode=0o600)
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One relay for all tests that leave it alone."""
    with Deployment(tmp_path_factory.mktemp("shared")) as deployment:
        deployment.start_relay()
        yield deployment


@pytest.fixture(scope="module")
def published(shared: Deployment) -> Iterator[Published]:
    """A hybrid connection whose target answers to nobody."""
    with socket.create_server(("127.0.0.1", 0)) as target:
        yield shared.create("wrong", target.getsockname())


def expect_failure(program: Program, code: int, *patterns: str) -> None:
    """The process ends by itself with this code and one line that says why."""
    assert program.wait(ENDS_WITHIN_SECONDS) == code, program.err
    errors = [line for line in program.lines["err"] if "error" in line and line.startswith("hybridrelay")]
    assert len(errors) == 1, program.err
    for pattern in patterns:
        assert re.search(pattern, program.err), program.err
    assert "Traceback" not in program.err
    assert program.out == ""


def start(*arguments: str | Path) -> Program:
    return Program([*HYBRIDRELAY, *arguments], name=f"hybridrelay {arguments[0]}")


def wrong_key(case: Case) -> ConnectionString:
    return attrs.evolve(case.mine, key=generate_key())


def wrong_right(case: Case) -> ConnectionString:
    return attrs.evolve(case.mine, key=case.others.key, key_name=case.others.key_name)


def unknown_rule(case: Case) -> ConnectionString:
    return attrs.evolve(case.mine, key_name="nobody")


def unknown_connection(case: Case) -> ConnectionString:
    authority = create_authority("elsewhere", now=time.time())
    identity = authority.issue(case.mine.role, "test", now=time.time())
    return attrs.evolve(case.mine, entity_path="elsewhere", identity=identity, authority=authority.certificate)


def wrong_pin(case: Case) -> ConnectionString:
    pin = "sha256:" + "A" * 43 + "="
    return attrs.evolve(case.mine, relay_pins=(pin,))


def no_pin(case: Case) -> ConnectionString:
    """No authority vouches for a certificate that the relay made itself."""
    return attrs.evolve(case.mine, relay_pins=())


AT_THE_RELAY = [
    (wrong_key, "shared access key is wrong"),
    (wrong_right, "does not have the right"),
    (unknown_rule, "key name is unknown"),
    (unknown_connection, "no such hybrid connection"),
    (wrong_pin, "certificate|pin"),
    (no_pin, "certificate"),
]


@pytest.mark.parametrize("command", ["connector", "forward"])
@pytest.mark.parametrize(("change", "says"), AT_THE_RELAY, ids=lambda value: getattr(value, "__name__", ""))
def test_what_the_relay_refuses(
    published: Published, tmp_path: Path, command: str, change: Change, says: str
) -> None:
    connector, application = load(published.connector), load(published.application)
    case = Case(connector, application) if command == "connector" else Case(application, connector)
    string = change(case)
    file = write(tmp_path / "wrong.string", string.format())
    with start(command, "--connection-string-file", file) as program:
        expect_failure(program, FAILED, says)


@pytest.mark.parametrize("command", ["connector", "forward"])
def test_a_program_whose_tokens_have_expired_goes_on_trying(published: Published, command: str) -> None:
    """The clock of this process is two hours behind, and its tokens live for one."""
    slow = "import time; now = time.time; time.time = lambda: now() - 7200; import hybridrelay.cli as cli; cli.main()"
    file = published.connector if command == "connector" else published.application
    with Program([sys.executable, "-c", slow, command, "--connection-string-file", file]) as program:
        # Where a right clock would help, a process goes on trying.
        program.wait_for_line("token has expired.*clocks", where="err")


@pytest.mark.parametrize("command", ["connector", "forward"])
def test_an_identity_of_the_other_role(published: Published, tmp_path: Path, command: str) -> None:
    connector, application = load(published.connector), load(published.application)
    mine, others = (connector, application) if command == "connector" else (application, connector)
    string = attrs.evolve(mine, identity=others.identity)
    file = write(tmp_path / "wrong.string", string.format())
    with start(command, "--connection-string-file", file) as program:
        expect_failure(program, USAGE, f"the identity in it is a.* {others.role}'s")


@pytest.mark.parametrize("who", ["forged", "foreign"])
async def test_an_identity_of_another_authority(
    shared: Deployment, published: Published, tmp_path: Path, who: str
) -> None:
    """Forged: the identity alone is of another authority. Foreign: the application trusts another one, too.

    It is a connector that says so, or that it is said of, and there may be others: the forward tells why it is of no
    use, resets applications without waiting, and goes on.
    """
    application = load(published.application)
    authority = create_authority("wrong", now=time.time())
    string = attrs.evolve(application, identity=authority.issue(Role.APPLICATION, "forged", now=time.time()))
    if who == "foreign":
        string = attrs.evolve(string, authority=authority.certificate)
    file = write(tmp_path / "wrong.string", string.format())
    with shared.start_connector(published), start("forward", "--connection-string-file", file) as program:
        program.wait_for_line(
            "issued by another authority.*use connection strings that were created together", where="err"
        )
        port = int(program.wait_for_line(r"^ready forward .*127\.0\.0\.1:(\d+)")[1])
        await expect_reset(port)
        program.wait_for_line("reset.*another authority", where="err")
        assert program.process.poll() is None


MALFORMED: dict[str, Callable[[str], str]] = {
    "Endpoint": lambda text: text.replace("hr://", "http://"),
    "SharedAccessKeyName": lambda text: re.sub(r"SharedAccessKeyName=[^;]*;", "", text),
    "SharedAccessKey": lambda text: re.sub(r"SharedAccessKey=[^;]*;", "SharedAccessKey=;", text),
    "EntityPath": lambda text: re.sub(r"EntityPath=[^;]*", "EntityPath=/", text),
    "Certificate": lambda text: re.sub(r"Certificate=[^;]*", "Certificate=x", text),
    "PrivateKey": lambda text: re.sub(r"PrivateKey=[^;]*;", "", text),
    "RelayPin": lambda text: re.sub(r"RelayPin=[^;]*", "RelayPin=md5:x", text),
    "Ports": lambda text: re.sub(r"Ports=[^;]*", "Ports=data=99999", text),
    "Surprise": lambda text: text + ";Surprise=x",
}


@pytest.mark.parametrize("part", MALFORMED)
@pytest.mark.parametrize("command", ["connector", "forward", "probe"])
def test_a_malformed_connection_string(published: Published, tmp_path: Path, command: str, part: str) -> None:
    """The part is named, and no secret is repeated."""
    text = (published.connector if command == "connector" else published.application).read_text().strip()
    file = write(tmp_path / "wrong.string", MALFORMED[part](text))
    with start(command, "--connection-string-file", file) as program:
        expect_failure(program, USAGE, part)
        key = parse_connection_string_untrusted(text).key.reveal()
        assert key not in program.err


def test_the_string_of_the_other_role(published: Published) -> None:
    for command, file in (("connector", published.application), ("forward", published.connector)):
        with start(command, "--connection-string-file", file) as program:
            expect_failure(program, USAGE, "connector's")


def test_a_relay_that_is_not_there(deployment: Deployment) -> None:
    """`probe` says so; connector and forward keep trying, and say so as well."""
    published = deployment.create("alone", ("127.0.0.1", free_port()))
    deployment.programs[0].terminate()
    for command, file in (("connector", published.connector), ("forward", published.application)):
        with start(command, "--connection-string-file", file) as program:
            program.wait_for_line("refused|no route", where="err")
            assert program.process.poll() is None
    with start("probe", "--connection-string-file", published.application) as program:
        assert program.wait(ENDS_WITHIN_SECONDS) == FAILED
        assert "refused" in program.out + program.err


# --- a tunnel that works, and a target that does not


async def expect_reset(port: int) -> None:
    """The application's connection is reset at once, maybe before it has noticed that it is connected."""
    with trio.fail_after(patience(ENDS_WITHIN_SECONDS)), trio.socket.socket() as sock:
        with pytest.raises(ConnectionResetError):
            await connect_and_read(sock, port)


async def connect_and_read(sock: trio.socket.SocketType, port: int) -> None:
    await sock.connect(("127.0.0.1", port))
    pytest.fail(f"no reset, but {await sock.recv(1)!r}")


#: Where a target that cannot be opened is, and what the logs call the reason (a regular expression).
TARGETS: dict[str, tuple[Callable[[], tuple[str, int]], str]] = {
    "refused": (lambda: ("127.0.0.1", free_port()), "refused"),
    # Never leaves this machine: TCP has no broadcast, so the kernel says at once that there is no way.
    "unreachable": (lambda: ("255.255.255.255", 9), "unreachable"),
    "unknown": (lambda: ("no-such-host.invalid", 9), "name.*unknown|name-not-found"),
}


@pytest.mark.parametrize("case", TARGETS)
async def test_a_target_that_cannot_be_opened(shared: Deployment, mode: str, case: str) -> None:
    """Both logs say why, and the forward goes on."""
    make, says = TARGETS[case]
    published = shared.create(f"{case}-{mode}", make())
    connector = shared.start_connector(published)
    forward = shared.start_forward(published, mode=mode)
    for _ in range(2):
        await expect_reset(forward.port)
    forward.program.wait_for_line(f"reset.*({says})", where="err")
    connector.wait_for_line(says, where="err")
    assert forward.program.process.poll() is None


async def test_a_forward_may_come_before_its_connector(shared: Deployment, nursery: trio.Nursery, mode: str) -> None:
    """A forward may come first: its applications are reset, until a connector is there."""
    published = shared.create(f"early-{mode}", await serve(nursery, echo))
    forward = shared.start_forward(published, mode=mode)
    await expect_reset(forward.port)
    forward.program.wait_for_line("no connector is listening", where="err")
    shared.start_connector(published)
    with trio.fail_after(patience(ENDS_WITHIN_SECONDS)):
        assert await is_served(forward.port), "a connection of an application asks again"
    nursery.cancel_scope.cancel()


# --- the machine


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = ",".join(f"{name}={port if name == 'data' else 'off'}" for name in PORT_NAMES)
        with start("relay", "--state", tmp_path / "state", "--host", "127.0.0.1", "--ports", ports) as program:
            expect_failure(program, USAGE, f"data.*{port}", "--ports")


def test_a_local_port_that_is_taken(published: Published) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listen = f"127.0.0.1:{port}"
        with start("forward", "--connection-string-file", published.application, "--listen", listen) as program:
            expect_failure(program, USAGE, f"{port}", "--listen")


def test_a_state_directory_of_a_newer_version(tmp_path: Path) -> None:
    with Deployment(tmp_path) as deployment:
        deployment.start_relay()
    newer = tmp_path / "newer"
    shutil.copytree(deployment.state, newer)
    newer.chmod(0o700)
    with sqlite3.connect(newer / REGISTRY_FILE) as database:
        database.execute("UPDATE meta SET value = ? WHERE name = 'schema_version'", (str(SCHEMA_VERSION + 1),))
    database.close()
    with start("relay", "--state", newer, "--host", "127.0.0.1", "--ports", f"data={free_port()}") as program:
        expect_failure(program, USAGE, "newer version")


def test_a_state_directory_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "below"):
        with start("relay", "--state", path) as program:
            expect_failure(program, USAGE, str(file))
