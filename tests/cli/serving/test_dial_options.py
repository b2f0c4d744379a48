"""How relays are reached may change while a program runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
import trio

from hybridrelay.abc import Dialer
from hybridrelay.cli.entries import Key
from hybridrelay.cli.parser import build_parser
from hybridrelay.cli.proxies import ChangingDialer
from hybridrelay.cli.running import GracefulStop
from hybridrelay.cli.serving.configuration import Configuration
from hybridrelay.cli.serving.plan import Plan, Running, Step
from hybridrelay.cli.serving.reloads import Reloads
from hybridrelay.connectivity import ProxyDial
from hybridrelay.connectivity.commands import Commands
from hybridrelay.http_options import HttpOptions
from hybridrelay.security import Role

from ...waiting import async_wait_until
from .test_plan import string


class Service:
    """Serves whatever it is told to."""

    def __init__(self) -> None:
        self.fields: Sequence[tuple[str, str]] = ()
        self.running: dict[Key, Running] = {}

    def refresh(self, keys: Iterable[Key]) -> None:
        pass

    async def apply(self, plan: Plan) -> Sequence[Step]:
        await trio.lowlevel.checkpoint()
        return ()


class Program:
    """A connector with a configuration file, as far as reloading is concerned."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.write("one.connector", string("one").format())
        self.write("headers", "X-Token: s3cret-1\n")
        self.configure('websocket-headers-file = "headers"', 'websocket-path-prefix = "/edge"')
        args = build_parser().parse_args(["connector", "--config", str(directory / "connector.toml")])
        configuration = Configuration(args, Role.CONNECTOR)
        (wanted,) = configuration.load()
        assert wanted.string is not None
        service = Service()
        service.running = {wanted.entry.key: Running(wanted.entry, wanted.string)}
        dialer = ChangingDialer(configuration.dial_options(), Commands(None))
        self.dialer: Dialer = dialer.dialer
        self.reloads = Reloads("connector", configuration, service, GracefulStop(0), dialer=dialer)

    def write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o600)

    def configure(self, *lines: str) -> None:
        self.write("connector.toml", "\n".join([*lines, "[[connection]]", 'file = "one.connector"\n']))

    @property
    def http(self) -> HttpOptions:
        assert self.dialer.current_http is not None
        return self.dialer.current_http()

    def proxy(self) -> tuple[str, str] | None:
        """The host of the proxy, and the password of its user."""
        assert isinstance(self.dialer.tcp, ProxyDial)
        proxy = self.dialer.tcp.settings.proxy
        return None if proxy is None else (proxy.host, "" if proxy.password is None else proxy.password.reveal())


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return Program(tmp_path)


async def test_changed_options_are_used(program: Program, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert program.http == HttpOptions("/edge", (("X-Token", "s3cret-1"),))
    program.write("headers", "X-Token: s3cret-2\n")
    await program.reloads.reload()
    assert program.http == HttpOptions("/edge", (("X-Token", "s3cret-2"),))
    assert "changed=header-fields" in caplog.text
    caplog.clear()
    program.write("password", "s3cret-3\n")
    program.configure(
        'websocket-path-prefix = "/other"', 'proxy = "http://me@proxy:3128"', 'proxy-password-file = "password"'
    )
    await program.reloads.reload()
    assert program.http == HttpOptions("/other")
    assert program.proxy() == ("proxy", "s3cret-3")
    assert "changed=proxy,path-prefix,header-fields" in caplog.text
    program.write("password", "s3cret-4\n")
    await program.reloads.reload()
    assert program.proxy() == ("proxy", "s3cret-4")
    program.configure()
    await program.reloads.reload()
    assert program.http == HttpOptions()
    assert program.proxy() is None
    assert "s3cret" not in caplog.text
    assert "only after a restart" not in caplog.text


@pytest.mark.parametrize("content", ["s3cret-2", "", None])
async def test_a_file_that_cannot_be_used_changes_nothing(
    program: Program, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    if content is None:
        (program.directory / "headers").unlink()
    else:
        program.write("headers", content)
    await program.reloads.reload()
    assert program.http == HttpOptions("/edge", (("X-Token", "s3cret-1"),))
    assert "A file was not reloaded" in caplog.text
    assert "s3cret" not in caplog.text


async def test_the_files_are_watched(program: Program, nursery: trio.Nursery) -> None:
    nursery.start_soon(program.reloads.watch)

    expected: list[tuple[tuple[str, str], ...]] = []

    async def is_used() -> bool:
        return program.http.headers == expected[-1]

    with trio.fail_after(60):
        for number in (22, 333):  # of another length each, for file systems with coarse times
            expected.append((("X-Token", f"s3cret-{number}"),))
            program.write("headers", f"X-Token: s3cret-{number}\n")
            await async_wait_until(is_used, seconds=60, what="the header fields")
    nursery.cancel_scope.cancel()
