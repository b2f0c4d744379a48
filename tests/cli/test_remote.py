"""With ``--management``: tokens without the right role, certificates, and a relay that stops during a change."""

from __future__ import annotations

import http.server
import io
import json
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from hybridrelay.management.values import ConnectionValue
from hybridrelay.relay import ConnectionSnapshot, SQLiteStore
from hybridrelay.security import ManagementRole, Secret, key_fingerprint
from hybridrelay.streams.unix_sockets import short_path

from ..deployments import HYBRIDRELAY, Program
from ..http_servers import http_server
from ..management.live import FakeRelay, listener
from .conftest import Created, Run
from .served_relay import Access, served
from .test_help import COMMANDS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")


@pytest.fixture
def relay() -> FakeRelay:
    """What the relay holds."""
    return FakeRelay.with_one_of_each()


@pytest.fixture
def access(created: Created, relay: FakeRelay) -> Iterator[Access]:
    """A relay with the hybrid connection ``orders``, over TLS."""
    with served(created.state, over_tcp=True, relay=relay) as access:
        yield access


def as_caller(access: Access, token_file: str | Path) -> tuple[str | Path, ...]:
    """The options of `access`, with another token."""
    _, url, _, _, *trust = access.options
    return ("--management", url, "--token-file", token_file, *trust)


def test_a_viewer_sees_connections_but_no_keys_and_changes_nothing(run: Run, access: Access, tmp_path: Path) -> None:
    viewer = as_caller(access, access.token_file(ManagementRole.VIEWER))
    for command in (["connections", "list"], ["connections", "show", "orders"], ["keys", "list", "orders"]):
        assert run(*command, *viewer).code == 0, command
    rule = ("orders", "--rule", "application")
    with SQLiteStore.open(access.state) as store:
        before = store.list(), store.tokens()
    files = {path: path.read_bytes() for path in tmp_path.glob("orders.*")}
    for command in (
        ["keys", "list", "orders", "--show-keys"],
        ["keys", "regenerate", *rule, "--key", "primary", "--update", str(tmp_path / "orders.application")],
        ["keys", "revoke", *rule, "--key", "primary"],
        ["keys", "use", *rule, "--key", "primary", "--update", str(tmp_path / "orders.application")],
        ["rules", "set", *rule, "--rights", "listen"],
        ["rules", "delete", *rule],
        ["connections", "delete", "orders"],
        ["connections", "disable", "orders"],
        ["connections", "endpoints", "orders", "--endpoint", "b.example"],
        ["tokens", "create", "me", "--role", "admin", "--out", str(tmp_path / "mine")],
        ["tokens", "list"],
        ["drain"],
        ["drop", "listener", "orders", "1" * 32],
    ):
        refused = run(*command, *viewer)
        assert (refused.code, refused.out) == (2, ""), command
        assert "this needs the role" in refused.err
        assert "ask an administrator of the relay" in refused.err
    with SQLiteStore.open(access.state) as store:
        assert before[0] == store.list()
        assert [one.id for one in before[1]] == [one.id for one in store.tokens()]
    assert files == {path: path.read_bytes() for path in files}
    assert not (tmp_path / "mine").exists()
    assert ("deleteHybridConnection", "token", 403) in access.audited


#: The commands that need no more than the role viewer, and their arguments.
READERS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("status",): (),
    ("events",): (),
    ("usage",): (),
    ("audit", "calls"): (),
    ("audit", "checkpoints"): (),
    ("connections", "list"): (),
    ("connections", "show"): ("orders",),
    ("claims", "list"): ("orders",),
    ("rules", "list"): ("orders",),
    ("keys", "list"): ("orders",),
    ("updates", "list"): ("orders",),
    ("editions", "list"): (),
}


def test_the_help_names_the_token_of_a_viewer_where_that_is_enough(run: Run, access: Access) -> None:
    option = "--management https://relay.example.com:9180 --token-file viewer.token"
    named = {path for path in COMMANDS if option in run(*path, "--help").out}
    assert named == set(READERS)
    viewer = as_caller(access, access.token_file(ManagementRole.VIEWER))
    for command, arguments in READERS.items():
        done = run(*command, *arguments, *viewer)
        assert (done.code in (0, 1), done.err) == (True, ""), command  # status: 1, because there are problems


def test_a_scope_hides_other_hybrid_connections(run: Run, access: Access, tmp_path: Path) -> None:
    scoped = as_caller(access, access.token_file(ManagementRole.ADMIN, scope="team/"))
    assert run("connections", "list", *scoped).out.startswith("there are no hybrid connections yet")
    outside = run("connections", "show", "orders", *scoped)
    assert (outside.code, "outside of the caller's scope" in outside.err) == (2, True)
    made = run(
        "connections", "create", "team/a", "--target", "db:1", "--endpoint", "relay.example.com",
        "--connector-file", tmp_path / "c", "--application-file", tmp_path / "a", *scoped,
    )  # fmt: skip
    assert (made.code, made.err) == (0, "")
    assert json.loads(run("connections", "list", "--json", *scoped).out)[0]["name"] == "team/a"
    limits = run("connections", "limits", "team/a", "--sessions", "50", *scoped)
    assert (limits.code, limits.err) == (0, ""), (
        "the limits are shown without the editions, which the caller may not see"
    )
    assert "50" in limits.out


def test_the_status_shows_a_caller_with_a_scope_nothing_of_others(run: Run, access: Access, relay: FakeRelay) -> None:
    with SQLiteStore.open(access.state) as store:
        for name in ("team/a", "team/b"):
            store.create(name, ["relay.example.com"], [])
    relay.held_listeners.append(listener("team/a", "5" * 32))
    scoped = as_caller(access, access.token_file(ManagementRole.VIEWER, scope="team/"))
    shown = run("status", *scoped)
    assert (shown.code, shown.err) == (1, "")
    assert "! no connector listens for team/b\n" in shown.out
    assert "hybrid connections: 2\n" in shown.out
    assert "listeners: 1\n" in shown.out
    for hidden in ("orders", "ports:", "in use:", "None"):
        assert hidden not in shown.out
    found = json.loads(run("status", "--json", *scoped).out)
    assert [one["name"] for one in found["hybridConnections"]] == ["team/a", "team/b"]
    assert [one["connection"] for one in found["listeners"]] == ["team/a"]
    assert (found["relay"]["connectionCount"], found["relay"]["ports"]) == (2, None)


def test_refused_tokens_are_never_shown(
    run: Run, access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("connections", "list")
    revoked = access.token_file(ManagementRole.VIEWER)
    assert run("tokens", "revoke", revoked.stem, *access.options).code == 0
    refused = run(*command, *as_caller(access, revoked))
    assert (refused.code, "does not accept the token" in refused.err) == (2, True)
    secret = revoked.read_text().strip()
    given = run(*command, *as_caller(access, secret))
    assert (given.code, given.out) == (2, "")
    assert "not the token itself" in given.err
    for name, content, says in (
        ("empty", "", "it is empty"),
        ("two", "a b", "more than a token"),
        ("other", "\x01", "does not contain a token"),
        ("missing", None, "cannot read the token file"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
            (tmp_path / name).chmod(0o600)
        result = run(*command, *as_caller(access, tmp_path / name))
        assert (result.code, says in result.err) == (2, True), name
    for text in (given.err, refused.err):
        assert secret not in text
    without = ("--management", access.options[1])
    assert "HYBRIDRELAY_MANAGEMENT_TOKEN_FILE" in run(*command, *without).err
    good = access.options[3]
    monkeypatch.setenv("HYBRIDRELAY_MANAGEMENT_TOKEN_FILE", str(good))
    assert run(*command, *without, "--management-ca", access.options[5]).code == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path(good).read_bytes())))
    assert run(*command, *as_caller(access, "-")).code == 0


def test_a_relay_whose_certificate_is_not_trusted_is_not_used(run: Run, access: Access) -> None:
    url, token = access.options[1], ("--token-file", access.options[3])
    command = ("connections", "list", "--management", url, *token)
    unknown = run(*command)
    assert (unknown.code, unknown.out) == (1, "")
    assert "is not trusted" in unknown.err
    assert "--management-ca" in unknown.err
    assert run(*command, "--management-pin", access.pin).code == 0
    wrong = run(*command, "--management-pin", "sha256:" + "A" * 43 + "=")
    assert (wrong.code, f"has the pin {access.pin}" in wrong.err) == (1, True)
    both = run(*command, "--management-pin", access.pin, "--management-ca", access.options[5])
    assert (both.code, "cannot be used together" in both.err) == (2, True)
    plain = run("connections", "list", "--management", str(url).replace("https", "http"), *token)
    assert (plain.code, plain.out) == (1, "")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--management", "relay.example.com"), "expected a URL"),
        (("--management", "ftp://relay.example.com"), "expected a URL"),
        (("--management", "https://me:secret@relay.example.com"), "user or a password"),
        (("--management", "http://relay.example.com:9180"), "unencrypted"),
        (("--management", "https://relay.example.com/v1"), "leave out /v1"),
        (("--management", "https://relay.example.com:0"), "a port is a number"),
        (("--management", "https://r", "--state", "s"), "not allowed with"),
        (("--state", "s", "--token-file", "t"), "--token-file can only be used with --management"),
        (
            ("--state", "s", "--management-pin", "sha256:" + "A" * 43 + "="),
            "--management-pin can only be used with --management",
        ),
        ((), "one of the arguments --state --management is required"),
    ],
)
def test_wrong_options_are_explained_without_their_secrets(run: Run, options: tuple[str, ...], says: str) -> None:
    result = run("connections", "list", *options)
    assert (result.code, result.out) == (2, "")
    assert says in result.err
    assert "secret" not in result.err


def test_a_relay_that_cannot_be_reached_is_named(run: Run, access: Access) -> None:
    options_without_trust = ("--token-file", access.options[3])
    for url in ("http://127.0.0.1:1", "https://relay.invalid"):
        result = run("connections", "list", "--management", url, *options_without_trust)
        assert (result.code, result.out) == (1, "")
        assert url in result.err


def test_drain_and_drop_work_over_the_network(run: Run, access: Access, relay: FakeRelay) -> None:
    shown = json.loads(run("status", "--json", *access.options).out)
    (listener,) = shown["listeners"]
    drain = ("drain", "orders", listener["instance"], *access.options)
    assert run(*drain).out == f"The connector {listener['instance']} is offered no new sessions of orders.\n"
    assert json.loads(run("status", "--json", *access.options).out)["listeners"][0]["draining"] is True
    again = run(*drain)
    assert (again.code, "nothing was changed" in again.err) == (1, True)
    assert run(*drain, "--undo").out == (
        f"The connector {listener['instance']} is offered new sessions of orders again.\n"
    )
    alone = run("drain", "orders", *access.options)
    assert (alone.code, "the instance of the connector is missing" in alone.err) == (2, True)
    dropped = run("drop", "listener", "orders", listener["instance"], *access.options)
    assert dropped.out == f"The listener {listener['instance']} of orders has ended.\n"
    again = run("drop", "listener", "orders", listener["instance"], *access.options)
    assert (again.code, f"there is no listener {listener['instance']} of orders" in again.err) == (1, True)
    for command in (("drop", "listener"), ("drop", "sender"), ("drop", "session"), ("drain",)):
        shortened = run(*command, "orders", "1234abcd", *access.options)
        assert (shortened.code, "give the whole id" in shortened.err) == (1, True)
    drained = run("drain", *access.options).out
    assert drained == "The relay accepts no new registrations and joins. Sessions left: 1.\n"
    assert run("drain", "--undo", *access.options).code == 0


class _Broken(http.server.BaseHTTPRequestHandler):
    """Answers as a relay would, and closes the connection in place of answering a change."""

    connection_info: dict[str, object]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""

    def do_GET(self) -> None:
        endpoint: dict[str, object] = {"pin": "sha256:" + "A" * 43 + "=", "ports": {}}
        body = endpoint if self.path == "/v1/relay/endpoint" else None
        if body is None and self.path.startswith("/v1/hybridConnections/orders") and self.connection_info:
            body = self.connection_info
        document = {"type": "urn:hybridrelay:problem:not-found", "detail": "there is none"} if body is None else body
        data = json.dumps(document).encode()
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.close_connection = True

    def do_POST(self) -> None:
        self.do_PUT()


@contextmanager
def broken(connection: dict[str, object] | None = None) -> Iterator[str]:
    """The URL of a relay that stops when it is asked for a change."""
    handler = type("Handler", (_Broken,), {"connection_info": connection or {}})
    with http_server(handler) as port:
        yield f"http://127.0.0.1:{port}"


def test_files_are_kept_if_the_relay_stops_during_a_create(run: Run, tmp_path: Path) -> None:
    """Nobody knows whether the hybrid connection exists, so its files are kept: only they have its identities."""
    (tmp_path / "token").write_text("x")
    (tmp_path / "token").chmod(0o600)
    with broken() as url:
        result = run(
            "connections", "create", "orders", "--target", "db:1", "--endpoint", "relay.example.com",
            "--connector-file", tmp_path / "c", "--application-file", tmp_path / "a",
            "--management", url, "--token-file", tmp_path / "token",
        )  # fmt: skip
    assert (result.code, result.out) == (1, "")
    assert "the change may have been made, or not" in result.err.lower()
    assert "check whether it was made" in result.err
    assert all((tmp_path / name).exists() for name in ("c", "a", "orders.authority"))


def test_the_new_key_is_kept_if_the_relay_stops_during_a_regenerate(
    run: Run, created: Created, tmp_path: Path
) -> None:
    """The file of ``--out`` is kept, because it may have the only copy of the new key; other files are unchanged."""
    with SQLiteStore.open(created.state) as store:
        value = msgspec.to_builtins(ConnectionValue.of(store.get("orders"), ConnectionSnapshot(), lambda _: None))
    value["ofALaterVersion"] = True
    (tmp_path / "token").write_text("x")
    (tmp_path / "token").chmod(0o600)
    before = created.application.read_bytes()
    with broken(value) as url:
        result = run(
            "keys", "regenerate", "orders", "--rule", "application", "--key", "primary", "--out", tmp_path / "new",
            "--update", created.application, "--management", url, "--token-file", tmp_path / "token",
        )  # fmt: skip
    assert (result.code, result.out) == (1, "")
    fingerprint = key_fingerprint(Secret((tmp_path / "new").read_text().strip()))
    assert f"check whether it was made: 'keys list' shows the fingerprint {fingerprint}" in result.err
    assert f"keys use orders --rule application --key primary --management {url}" in result.err
    assert (tmp_path / "new").exists()
    assert created.application.read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_waits_for_a_relay_that_hangs_can_be_stopped(created: Created, number: signal.Signals) -> None:
    """The command does not take the relay for one that does not run, and does not change the registry itself."""
    with socket.socket(socket.AF_UNIX) as listener:
        with short_path(created.state / "management.sock") as name:
            listener.bind(name)
        listener.listen()
        command: list[str | Path] = [*HYBRIDRELAY, "connections", "delete", "orders", "--state", created.state]
        with Program(command) as program:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(1000).startswith(b"GET /v1/hybridConnections/orders ")
                program.process.send_signal(number)
                assert program.wait() == 128 + number
    with SQLiteStore.open(created.state) as store:
        assert store.get("orders")
