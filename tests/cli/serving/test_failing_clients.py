"""Clients that relays refuse, or that meet something else in place of the relay, while a configuration changes."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay.abc import Dialer
from hybridrelay.cli.parser import build_parser
from hybridrelay.cli.proxies import ChangingDialer
from hybridrelay.cli.running import GracefulStop
from hybridrelay.cli.serving import served as served_module
from hybridrelay.cli.serving.application import ApplicationService
from hybridrelay.cli.serving.configuration import Configuration
from hybridrelay.cli.serving.forward import ForwardService
from hybridrelay.cli.serving.reloads import Reloads
from hybridrelay.cli.serving.served import LocalPort
from hybridrelay.client import Client, ClientConfig, open_port
from hybridrelay.connectivity.commands import Commands
from hybridrelay.errors import AuthorizationError, DeniedByPolicy, HybridRelayError, RelayIdentityError
from hybridrelay.events import Event, EventStream
from hybridrelay.events.client import ForwardPortClosed
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import ConnectionString, Role, Secret

from ...waiting import async_wait_until
from .test_renewed_identities import READ, RENEWED, refuse

NEW_KEY = attrs.evolve(READ, key=Secret("k2"))
NEW_IDENTITY = attrs.evolve(READ, key=Secret("k2"), identity=RENEWED)
CHANGED = pytest.mark.parametrize("changed", [NEW_KEY, NEW_IDENTITY], ids=["key", "identity"])


def refusal() -> AuthorizationError:
    return AuthorizationError("the key was revoked", reason=Reason.KEY_REVOKED)


@attrs.define(eq=False)
class Attempt:
    """What a client does to stay connected."""

    string: ConnectionString
    at_start: bool
    #: Set when the first attempt may be over, and when relays refuse the client.
    may_start: trio.Event = attrs.field(factory=trio.Event)
    is_refused: trio.Event = attrs.field(factory=trio.Event)
    #: Why the first attempt fails; None if it does not, or is repeated.
    failure: HybridRelayError | None = None


@attrs.define
class Relays:
    """What answers the clients, in the order in which they are opened."""

    attempts: list[Attempt] = attrs.field(factory=list)
    #: The first attempts of clients that end only when the test allows it, by their number.
    held: set[int] = attrs.field(factory=set)
    #: Set when the close of a refused client begins, and when it may end.
    is_closing: trio.Event = attrs.field(factory=trio.Event)
    may_close: trio.Event = attrs.field(factory=trio.Event)

    async def keep_connected(self, client: Client, *, at_start: bool, task_status: trio.TaskStatus[None]) -> None:
        attempt = Attempt(client.connection_string, at_start)
        self.attempts.append(attempt)
        if len(self.attempts) - 1 in self.held:
            await attempt.may_start.wait()
            if attempt.failure is not None:
                raise attempt.failure
        task_status.started()
        await attempt.is_refused.wait()
        raise refusal()

    @property
    def strings(self) -> list[ConnectionString]:
        return [one.string for one in self.attempts]

    async def wait_for(self, number: int) -> Attempt:
        async def is_there() -> bool:
            return len(self.attempts) > number

        await async_wait_until(is_there, seconds=30, what=f"client {number}")
        return self.attempts[number]


@pytest.fixture
def relays(monkeypatch: pytest.MonkeyPatch) -> Relays:
    made = Relays()
    made.may_close.set()
    close = Client._aclose

    async def aclose(client: Client) -> None:
        if any(attempt.is_refused.is_set() for attempt in made.attempts):
            made.is_closing.set()
            await made.may_close.wait()
        await close(client)

    monkeypatch.setattr(served_module, "keep_connected", made.keep_connected)
    monkeypatch.setattr(Client, "_aclose", aclose)
    return made


@attrs.define
class Program:
    """A forward or `run`, and one of its local ports."""

    service: ForwardService | ApplicationService
    reloads: Reloads
    port: int
    file: Path
    published: list[Event]
    graceful_stop: GracefulStop

    def stop(self) -> None:
        self.graceful_stop.event.set()
        if isinstance(self.service, ApplicationService):
            self.service.stop(0)

    @property
    def forward(self) -> ForwardService:
        assert isinstance(self.service, ForwardService)
        return self.service

    async def has_port(self) -> bool:
        try:
            await (await trio.open_tcp_stream("127.0.0.1", self.port)).aclose()
        except OSError:
            return False
        return True

    async def is_closed(self) -> bool:
        return not await self.has_port()

    async def is_served(self) -> bool:
        return [one.listening for one in self.service.clients if one.listening] == [(f"127.0.0.1:{self.port}",)]


@asynccontextmanager
async def serving(
    role: str, directory: Path, *, ports: int = 1, config: Path | None = None
) -> AsyncIterator[Program]:
    """Run a forward, or what `run` serves. Without `config`, it has one connection string. It looks at its files only
    when asked, and before it ends."""
    file = directory / "orders.application"
    file.write_text(READ.format())
    file.chmod(0o600)
    published: list[Event] = []
    events = EventStream(published.append)
    port = await open_port(("127.0.0.1", 0), events=events)
    ((_, number),) = port.bound
    options = ["--connection-string-file", str(file)]
    if config is not None:
        port.close()
        options = ["--config", str(config)]
    elif role == "forward":
        port.close()
        options += ["--listen", f"127.0.0.1:{number}", *["--listen", "127.0.0.1:0"] * (ports - 1)]
    else:
        options += ["--", "true"]
    configuration = Configuration(build_parser().parse_args([role, *options]), Role.APPLICATION)
    wanted = configuration.load()
    stop = GracefulStop(0)

    def make_config(string: ConnectionString) -> ClientConfig:
        return ClientConfig(string, mode="tcp", dialer=Dialer(tcp=refuse))

    def last_look() -> AbstractAsyncContextManager[None]:
        return reloads.last_look()

    service: ForwardService | ApplicationService
    if role == "forward":
        service = ForwardService(make_config, events, stop, last_look=last_look)
    else:
        service = ApplicationService(make_config, events, {wanted[0].entry.key: [port]}, last_look=last_look)
    dialer = ChangingDialer(configuration.dial_options(), Commands(None))
    reloads = Reloads(role, configuration, service, stop, dialer=dialer)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(service.run, wanted)
            yield Program(service, reloads, number, file, published, stop)
            nursery.cancel_scope.cancel()


BOTH = pytest.mark.parametrize("role", ["forward", "run"])


@BOTH
@CHANGED
async def test_a_string_that_was_not_read_yet_is_used(
    role: str, changed: ConnectionString, tmp_path: Path, relays: Relays
) -> None:
    """Somebody has changed the file at the same time as the key."""
    async with serving(role, tmp_path) as program:
        program.file.write_text(changed.format())
        relays.attempts[0].is_refused.set()
        second = await relays.wait_for(1)
        await async_wait_until(program.is_served, seconds=30, what="the port")
        assert relays.strings == [READ, changed]
        assert not second.at_start
        assert not any(isinstance(event, ForwardPortClosed) for event in program.published)


@BOTH
@CHANGED
async def test_a_string_that_is_read_while_the_refused_client_ends_is_used(
    role: str, changed: ConnectionString, tmp_path: Path, relays: Relays
) -> None:
    async with serving(role, tmp_path) as program:
        relays.may_close = trio.Event()
        relays.attempts[0].is_refused.set()
        await relays.is_closing.wait()
        program.file.write_text(changed.format())
        await program.reloads.reload()
        relays.may_close.set()
        await relays.wait_for(1)
        await async_wait_until(program.is_served, seconds=30, what="the port")
        assert relays.strings == [READ, changed]


@BOTH
async def test_a_successor_that_starts_while_the_earlier_one_is_refused_gets_its_port(
    role: str, tmp_path: Path, relays: Relays, nursery: trio.Nursery
) -> None:
    async with serving(role, tmp_path) as program:
        relays.held.add(1)
        program.file.write_text(NEW_IDENTITY.format())
        nursery.start_soon(program.reloads.reload)
        second = await relays.wait_for(1)
        relays.attempts[0].is_refused.set()
        await relays.is_closing.wait()
        assert await program.has_port()
        second.may_start.set()
        await async_wait_until(program.is_served, seconds=30, what="the port")
        assert relays.strings == [READ, NEW_IDENTITY]
        assert not any(isinstance(event, ForwardPortClosed) for event in program.published)


@BOTH
async def test_a_successor_that_meets_another_relay_is_tried_again_after_the_earlier_one_is_refused(
    role: str, tmp_path: Path, relays: Relays, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody in the network answers in place of the relay, which ends no program."""
    async with serving(role, tmp_path) as program:
        relays.held.add(1)
        program.file.write_text(NEW_IDENTITY.format())
        nursery.start_soon(program.reloads.reload)
        second = await relays.wait_for(1)
        relays.attempts[0].is_refused.set()
        await relays.is_closing.wait()
        second.failure = RelayIdentityError("another certificate")
        second.may_start.set()
        third = await relays.wait_for(2)
        await async_wait_until(program.is_served, seconds=30, what="the port")
        assert relays.strings == [READ, NEW_IDENTITY, NEW_IDENTITY]
        assert [one.at_start for one in relays.attempts] == [True, True, False]
        assert third.failure is None
        assert "another certificate" in caplog.text


async def test_a_forward_ends_if_the_successor_is_refused_as_well(tmp_path: Path, relays: Relays) -> None:
    async def serve() -> None:
        async with serving("forward", tmp_path) as program:
            relays.held |= {1, 2}
            program.file.write_text(NEW_IDENTITY.format())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(program.reloads.reload)
                second = await relays.wait_for(1)
                relays.attempts[0].is_refused.set()
                await relays.is_closing.wait()
                for attempt in (second, None):
                    attempt = attempt or await relays.wait_for(2)
                    attempt.failure = refusal()
                    attempt.may_start.set()
            await trio.sleep_forever()

    with pytest.RaisesGroup(pytest.RaisesExc(AuthorizationError, match="the key was revoked")):
        await serve()
    assert relays.strings == [READ, NEW_IDENTITY, NEW_IDENTITY]


async def test_a_forward_with_an_unchanged_string_ends(tmp_path: Path, relays: Relays) -> None:
    """It serves nothing else."""

    async def serve() -> None:
        async with serving("forward", tmp_path):
            relays.attempts[0].is_refused.set()
            await trio.sleep_forever()

    with pytest.RaisesGroup(pytest.RaisesExc(AuthorizationError, match="the key was revoked")):
        await serve()
    assert relays.strings == [READ]


@CHANGED
async def test_run_closes_the_port_of_an_unchanged_string_and_says_that_a_later_change_is_too_late(
    changed: ConnectionString, tmp_path: Path, relays: Relays, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving("run", tmp_path) as program:
        relays.attempts[0].is_refused.set()
        await async_wait_until(program.is_closed, seconds=30, what="the end of the port")
        assert sum(isinstance(event, ForwardPortClosed) for event in program.published) == 1
        program.file.write_text(changed.format())
        for _ in range(2):
            await program.reloads.reload(says_all=False)
        assert caplog.text.count("is not served any more") == 1
        assert relays.strings == [READ]


@BOTH
@pytest.mark.parametrize("passes", [*range(0, 60, 4)])
async def test_at_whatever_moment_it_is_refused_its_port_is_served_with_the_string_that_replaces_its_own(
    role: str, passes: int, tmp_path: Path, relays: Relays, nursery: trio.Nursery
) -> None:
    """The moment is that many passes of the event loop after the reload has begun."""
    async with serving(role, tmp_path) as program:
        program.file.write_text(NEW_IDENTITY.format())
        nursery.start_soon(program.reloads.reload)
        for _ in range(passes):
            await trio.lowlevel.checkpoint()
        relays.attempts[0].is_refused.set()

        async def is_replaced() -> bool:
            strings = [one.connection_string for one in program.service.clients if one.listening]
            return strings == [NEW_IDENTITY] and await program.has_port()

        await async_wait_until(is_replaced, seconds=30, what="the port with the new connection string")
        assert not any(isinstance(event, ForwardPortClosed) for event in program.published)


@BOTH
@pytest.mark.parametrize("passes", range(40))
async def test_it_may_be_cancelled_at_whatever_moment(
    role: str, passes: int, tmp_path: Path, relays: Relays, nursery: trio.Nursery
) -> None:
    """The moment is that many passes of the event loop after the next client has begun."""
    async with serving(role, tmp_path) as program:
        program.file.write_text(NEW_IDENTITY.format())
        relays.attempts[0].is_refused.set()
        await relays.is_closing.wait()
        while len(relays.attempts) == 1:
            await trio.lowlevel.checkpoint()
        for _ in range(passes):
            await trio.lowlevel.checkpoint()
    assert await program.is_closed()


@BOTH
@pytest.mark.parametrize("is_refused", [True, False])
async def test_a_program_may_stop_while_a_successor_starts(
    role: str,
    is_refused: bool,
    tmp_path: Path,
    relays: Relays,
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(role, tmp_path) as program:
        relays.held.add(1)
        program.file.write_text(NEW_IDENTITY.format())
        nursery.start_soon(program.reloads.reload)
        second = await relays.wait_for(1)
        if is_refused:
            relays.attempts[0].is_refused.set()
            await relays.is_closing.wait()
        program.stop()
        second.may_start.set()
        await async_wait_until(program.is_closed, seconds=30, what="the end of the port")
    assert relays.strings == [READ, NEW_IDENTITY]
    assert not [record for record in caplog.records if "rror" in record.getMessage()]
    assert not program.published


@pytest.mark.parametrize("ports", [2, 3, 30])
async def test_a_successor_that_is_refused_while_it_takes_ports_gets_all_of_them_before_it_ends(
    ports: int, tmp_path: Path, relays: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end closes no listener at which the earlier client still accepts connections."""
    release = LocalPort.release
    open_then: list[int] = []

    async def serve() -> None:
        async with serving("forward", tmp_path, ports=ports) as program:
            (served,) = program.forward._served.values()
            listeners = [port.opened.listeners[0] for port in served.ports.values()]

            async def release_after_refusal(port: LocalPort, grace: float) -> None:
                relays.attempts[1].is_refused.set()
                await relays.is_closing.wait()
                await release(port, grace)
                open_then.append(sum(one.socket.fileno() != -1 for one in listeners))

            monkeypatch.setattr(LocalPort, "release", release_after_refusal)
            program.file.write_text(NEW_IDENTITY.format())
            await program.reloads.reload()
            await trio.sleep_forever()

    with pytest.RaisesGroup(pytest.RaisesExc(AuthorizationError, match="the key was revoked")):
        await serve()
    assert open_then == [ports] * ports
    assert relays.strings == [READ, NEW_IDENTITY]


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


@attrs.define
class Files:
    """The configuration file of a forward, and two connection strings."""

    directory: Path

    def write(self, string: ConnectionString = READ, **listen: Sequence[int]) -> Path:
        """Write the configuration: the ports of each connection string, which stays where it has none."""
        config = ""
        for name, ports in listen.items():
            file = self.directory / f"{name}.application"
            file.write_text((string if name == "a" else NEW_KEY).format())
            file.chmod(0o600)
            addresses = [f"127.0.0.1:{port}" for port in ports]
            config += f'[[connection]]\nfile = "{file}"\nlisten = {addresses}\n'
        path = self.directory / "forward.toml"
        path.write_text(config)
        return path


@pytest.mark.parametrize("string", [READ, NEW_IDENTITY], ids=["change", "replacement"])
async def test_a_port_of_one_that_is_refused_meanwhile_is_passed_on(
    string: ConnectionString,
    tmp_path: Path,
    relays: Relays,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, other = free_ports()
    files = Files(tmp_path)
    async with serving("forward", tmp_path, config=files.write(a=[one], b=[other])) as program:
        opened = program.forward._open_missing

        async def open_missing(*arguments: object) -> object:
            spare = await opened(*arguments)  # type: ignore[arg-type]
            (refused,) = (attempt for attempt in relays.attempts if attempt.string == NEW_KEY)
            refused.is_refused.set()
            await relays.is_closing.wait()
            return spare

        monkeypatch.setattr(program.forward, "_open_missing", open_missing)
        files.write(string, a=[one, other])
        await program.reloads.reload()
        (served,) = program.forward._served.values()
        assert served.client is not None
        assert set(served.client.listening) == {f"127.0.0.1:{port}" for port in (one, other)}
        assert all(port.is_served for port in served.ports.values())
        assert "reload.failed" not in caplog.text


@attrs.define
class Policy:
    """Denies listening at a port to a connection string."""

    string: ConnectionString
    denied: int | None = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        set_listening = Client.set_listening

        def check(client: Client, addresses: Sequence[str], *, left_out: Sequence[str] = ()) -> None:
            if client.connection_string == self.string and f"127.0.0.1:{self.denied}" in addresses:
                raise DeniedByPolicy("the address is denied")
            set_listening(client, addresses, left_out=left_out)

        monkeypatch.setattr(Client, "set_listening", check)


async def test_a_port_that_the_policy_denies_is_closed_and_opened_by_the_next_reload_after_it_is_allowed(
    tmp_path: Path, relays: Relays, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = free_ports()
    files, policy = Files(tmp_path), Policy(READ)
    policy.install(monkeypatch)
    async with serving("forward", tmp_path, config=files.write(a=[one])) as program:
        (served,) = program.forward._served.values()
        policy.denied = program.port = other
        files.write(a=[one, other])
        await program.reloads.reload()
        assert "the address is denied" in caplog.text
        assert not await program.has_port()
        policy.denied = None
        await program.reloads.reload()
        assert await program.has_port()
        assert served.client is not None
        assert served.client.listening == (f"127.0.0.1:{one}", f"127.0.0.1:{other}")


async def test_a_successor_that_may_not_have_a_port_takes_the_others(
    tmp_path: Path, relays: Relays, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = free_ports()
    files, policy = Files(tmp_path), Policy(NEW_IDENTITY)
    policy.install(monkeypatch)
    async with serving("forward", tmp_path, config=files.write(a=[one, other])) as program:
        policy.denied = program.port = one
        files.write(NEW_IDENTITY, a=[one, other])
        await program.reloads.reload()
        assert "the address is denied" in caplog.text
        assert not await program.has_port()
        program.port = other
        await async_wait_until(program.is_served, seconds=30, what="the other port")

        async def earlier_is_over() -> bool:
            return not program.forward._ending

        await async_wait_until(earlier_is_over, seconds=30, what="the end of the earlier client")
        policy.denied = None
        await program.reloads.reload()
        program.port = one
        assert await program.has_port()
