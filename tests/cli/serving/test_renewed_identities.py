"""How a program that serves local ports takes up an identity that it has renewed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.abc import Dialer
from hybridrelay.cli.entries import Key
from hybridrelay.cli.parser import build_parser
from hybridrelay.cli.proxies import ChangingDialer
from hybridrelay.cli.running import GracefulStop
from hybridrelay.cli.serving import reloads as reloads_module
from hybridrelay.cli.serving.configuration import Configuration
from hybridrelay.cli.serving.forward import ForwardService
from hybridrelay.cli.serving.plan import Plan, Renew, Running, Step
from hybridrelay.cli.serving.reloads import LONGEST_RETRY_SECONDS, RETRY_SECONDS, Reloads
from hybridrelay.client import Client, ClientConfig
from hybridrelay.connectivity.commands import Commands
from hybridrelay.errors import ConfigurationError
from hybridrelay.events import EventStream
from hybridrelay.security import (
    ConnectionString,
    Endpoint,
    Identity,
    Role,
    Secret,
    create_authority,
    create_issuer,
    make_request,
    new_private_key,
    parse_request_untrusted,
)

from ...waiting import async_wait_until

AUTHORITY = create_authority("orders", now=time.time())
ISSUER = create_issuer(AUTHORITY, now=time.time())
RELAYS = (Endpoint("192.0.2.1"),)


def identity(*, days: float) -> Identity:
    key = new_private_key()
    request = parse_request_untrusted(make_request(key))
    issued = ISSUER.sign("orders", "billing", request, now=time.time(), seconds=days * 86_400)
    return Identity(issued.certificate, key, issued.issuer)


EARLIER, RENEWED = identity(days=30), identity(days=90)
READ = ConnectionString(RELAYS, "a", Secret("k1"), "orders", None, EARLIER, AUTHORITY.certificate)


async def refuse(_host: str, _port: int) -> trio.abc.Stream:
    raise OSError("there is no relay")


@attrs.define
class Program:
    """A forward that reads its connection string from a file, and reaches no relay."""

    service: ForwardService
    reloads: Reloads
    #: Why another client cannot be started; None if it can.
    why_not: str | None = None

    @property
    def ports(self) -> list[str]:
        return [names for _, names in self.service.fields]

    def serving(self) -> Client:
        """The client that has the ports."""
        (client,) = (one for one in self.service.clients if one.listening)
        return client

    async def wait_until_renewed(self) -> None:
        async def is_renewed() -> bool:
            serving = [one.connection_string.identity for one in self.service.clients if one.listening]
            return serving == [RENEWED]  # none while the ports are handed over

        await async_wait_until(is_renewed, seconds=30, what="a client with the renewed identity")


@asynccontextmanager
async def forward(directory: Path) -> AsyncIterator[Program]:
    file = directory / "orders.application"
    file.write_text(READ.format())
    file.chmod(0o600)
    options = ["--connection-string-file", str(file), "--listen", "127.0.0.1:0"]
    configuration = Configuration(build_parser().parse_args(["forward", *options]), Role.APPLICATION)
    stop = GracefulStop(0)

    def make_config(string: ConnectionString) -> ClientConfig:
        if program.why_not is not None:
            raise ConfigurationError(program.why_not)
        return ClientConfig(string, mode="tcp", dialer=Dialer(tcp=refuse))

    def last_look() -> AbstractAsyncContextManager[None]:
        return reloads.last_look()

    service = ForwardService(make_config, EventStream(), stop, last_look=last_look)
    dialer = ChangingDialer(configuration.dial_options(), Commands(None))
    reloads = Reloads("forward", configuration, service, stop, dialer=dialer)
    program = Program(service, reloads)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(service.run, configuration.load())
            nursery.start_soon(reloads.watch)
            yield program
            nursery.cancel_scope.cancel()


async def test_what_relays_have_given_stays_in_use(tmp_path: Path) -> None:
    """A key and relays that no file has."""
    given = attrs.evolve(READ, key=Secret("k2"), endpoints=(Endpoint("192.0.2.2"),), update_sequence=7)
    async with forward(tmp_path) as program:
        earlier, ports = program.serving(), program.ports
        earlier.update(given)
        program.reloads.use_renewed(given, attrs.evolve(given, identity=RENEWED))
        await program.wait_until_renewed()
        assert program.serving() is not earlier
        assert program.serving().connection_string == attrs.evolve(given, identity=RENEWED)
        assert program.ports == ports


async def test_a_file_that_could_not_be_written_undoes_nothing(tmp_path: Path) -> None:
    """The program reads it again, and it has the earlier identity and the earlier key."""
    given = attrs.evolve(READ, key=Secret("k2"))
    async with forward(tmp_path) as program:
        program.serving().update(given)
        program.reloads.use_renewed(given, attrs.evolve(given, identity=RENEWED))
        await program.wait_until_renewed()
        serving = program.serving()
        await program.reloads.reload()
        assert program.serving() is serving
        assert serving.connection_string == attrs.evolve(given, identity=RENEWED)


async def test_a_file_that_has_been_written_changes_nothing_more(tmp_path: Path) -> None:
    after = attrs.evolve(READ, identity=RENEWED)
    async with forward(tmp_path) as program:
        program.reloads.use_renewed(READ, after)
        await program.wait_until_renewed()
        serving = program.serving()
        (tmp_path / "orders.application").write_text(after.format())
        await program.reloads.reload()
        assert program.serving() is serving
        assert serving.connection_string == after


async def test_what_cannot_be_used_at_first_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloads_module, "RETRY_SECONDS", 0.1)

    async def reported() -> bool:
        return "the renewed identity of orders cannot be used yet: the policy cannot be read" in caplog.text

    async with forward(tmp_path) as program:
        earlier, ports = program.serving(), program.ports
        program.why_not = "the policy cannot be read"
        program.reloads.use_renewed(READ, attrs.evolve(READ, identity=RENEWED))
        await async_wait_until(reported, seconds=30, what="the event")
        assert (program.serving(), program.ports) == (earlier, ports)
        program.why_not = None
        await program.wait_until_renewed()
        assert program.ports == ports


@attrs.define
class FailingService:
    """Serves a hybrid connection, and fails in every way before it uses its renewed identity."""

    running: Mapping[Key, Running]
    failures: list[Exception | None]
    fields: Sequence[tuple[str, str]] = ()
    tried_at: list[float] = attrs.field(factory=list)
    is_renewed: trio.Event = attrs.field(factory=trio.Event)

    def refresh(self, keys: Iterable[Key]) -> None:
        raise AssertionError("nobody has asked")

    async def apply(self, plan: Plan) -> Sequence[Step]:
        await trio.lowlevel.checkpoint()
        (step,) = plan.steps
        (key,) = self.running
        assert step == Renew(key, RENEWED)
        self.tried_at.append(trio.current_time())
        if self.failures:
            if (failure := self.failures.pop(0)) is not None:
                raise failure
            return ()
        self.is_renewed.set()
        return plan.steps


async def test_how_often_it_is_tried(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "orders.application"
    file.write_text(READ.format())
    file.chmod(0o600)
    args = build_parser().parse_args(["forward", "--connection-string-file", str(file)])
    configuration = Configuration(args, Role.APPLICATION)
    (wanted,) = configuration.load()
    failures: list[Exception | None] = [None, ConfigurationError("not now"), RuntimeError("a bug"), *[None] * 20]
    service = FailingService({wanted.entry.key: Running(wanted.entry, READ)}, failures)
    dialer = ChangingDialer(configuration.dial_options(), Commands(None))
    reloads = Reloads("forward", configuration, service, GracefulStop(0), dialer=dialer)
    nursery.start_soon(reloads._use_all_renewed)
    reloads.use_renewed(READ, attrs.evolve(READ, identity=RENEWED))
    await service.is_renewed.wait()
    await trio.sleep(10 * LONGEST_RETRY_SECONDS)
    assert len(service.tried_at) == 24
    waits = [after - before for before, after in zip(service.tried_at, service.tried_at[1:], strict=False)]
    assert waits[:3] == pytest.approx([RETRY_SECONDS, 2 * RETRY_SECONDS, 4 * RETRY_SECONDS])
    assert max(waits) == pytest.approx(LONGEST_RETRY_SECONDS)
    assert "not now" in caplog.text
    assert "a bug" in caplog.text
    nursery.cancel_scope.cancel()
