"""Connection strings that a program cannot write: credentials of systemd, which are in a read-only directory."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay.relay import SQLiteStore
from hybridrelay.security import KeySlot, load_connection_string

from ..deployments import Deployment, Program, Published
from ..waiting import async_wait_until
from .targets import echo, exchange, serve

SECONDS = 120
_READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'


def read_only(directory: Path) -> Sequence[str | Path]:
    """Return a wrapper for a command, for which a directory is read-only, as that of credentials is. Everybody else
    can change it."""
    unshare = ["unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",))]
    wrapper = [*unshare, "sh", "-c", _READ_ONLY, "sh", directory]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*wrapper, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("no mount namespaces here")
    return wrapper


@attrs.define
class Scene:
    """A forward whose connection string is a credential."""

    deployment: Deployment
    published: Published
    environment: dict[str, str]
    directory: Path
    wrapper: Sequence[str | Path]
    program: Program | None = None

    @classmethod
    async def begin(cls, deployment: Deployment, nursery: trio.Nursery, *, has_state: bool) -> Scene:
        published = deployment.create("orders", await serve(nursery, echo))
        directory, state = deployment.directory / "credentials", deployment.directory / "program state"
        directory.mkdir()
        state.mkdir()
        environment = {"CREDENTIALS_DIRECTORY": str(directory), "STATE_DIRECTORY": str(state) if has_state else ""}
        scene = cls(deployment, published, environment, directory, read_only(directory))
        scene.exchange(published.application.read_text())
        await trio.to_thread.run_sync(deployment.start_connector, published)
        return scene

    def exchange(self, text: str) -> None:
        """Exchange all credentials at once, by a link that leads to another directory."""
        number = len(list(self.directory.iterdir()))
        version = self.directory / f"..{number}"
        version.mkdir()
        (version / "orders").write_text(text)
        (version / "orders").chmod(0o600)
        (self.directory / "..new").symlink_to(version.name)
        (self.directory / "..new").rename(self.directory / "..data")
        if not (self.directory / "orders").is_symlink():
            (self.directory / "orders").symlink_to("..data/orders")

    async def start(self) -> int:
        """Start the forward. Returns its local port."""
        config = self.deployment.directory / "forward.toml"
        config.write_text('[[connection]]\ncredential = "orders"\nlisten = "127.0.0.1:0"\n')
        start = partial(
            self.deployment.start,
            "forward", "--config", config, "--mode", "tcp",
            wrapper=self.wrapper, environment=self.environment,
        )  # fmt: skip
        self.program = await trio.to_thread.run_sync(start)
        match = re.search(r"127\.0\.0\.1:(\d+)", self.program.out)
        assert match is not None
        return int(match[1])

    async def says(self, pattern: str) -> None:
        assert self.program is not None
        await trio.to_thread.run_sync(partial(self.program.wait_for_line, pattern, where="err", seconds=SECONDS))

    async def run(self, *arguments: str | Path) -> str:
        done = await trio.to_thread.run_sync(self.deployment.run, *arguments)
        return done.stdout

    async def roll(self, *more: str) -> None:
        await self.run(
            "keys", "roll", "orders", "--rule", "application", "--state", self.deployment.state,
            "--out", self.deployment.directory / "key", *more,
        )  # fmt: skip

    @property
    def new_key(self) -> str:
        return (self.deployment.directory / "key").read_text().strip()

    async def until_old_key_is_revoked(self) -> None:
        async def is_revoked() -> bool:
            with SQLiteStore.open(self.deployment.state) as store:
                return store.rule("orders", "application").key(KeySlot.PRIMARY) is None

        await async_wait_until(is_revoked, seconds=SECONDS, what="the old key is revoked")

    def with_new_key(self) -> str:
        """The connection string as an operator writes it."""
        string = load_connection_string(self.published.application)
        return self.published.application.read_text().replace(string.key.reveal(), self.new_key)


async def test_a_rolled_key_survives_a_restart(deployment: Deployment, nursery: trio.Nursery) -> None:
    """It is in a copy in the state directory, until the credential has it."""
    scene = await Scene.begin(deployment, nursery, has_state=True)
    port = await scene.start()
    data = os.urandom(1000)
    assert await exchange(port, data) == data
    await scene.roll()
    await scene.says(r"connection-string\.copy-written: .*parts=key .*Read-only file system")
    await scene.until_old_key_is_revoked()
    assert scene.program is not None
    assert "not-kept" not in scene.program.err
    scene.program.kill()

    port = await scene.start()
    await scene.says(r"connection-string\.copy-used: .*parts=key")
    assert await exchange(port, data) == data

    scene.exchange(scene.with_new_key())
    await scene.says(r"connection-string\.copy-removed: ")
    assert list((deployment.directory / "program state" / "strings").iterdir()) == []
    assert scene.program is not None
    assert scene.new_key not in scene.program.err
    scene.program.kill()
    port = await scene.start()
    assert await exchange(port, data) == data
    nursery.cancel_scope.cancel()


async def test_without_a_directory_for_state_it_is_reported_until_the_credential_has_the_key(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    scene = await Scene.begin(deployment, nursery, has_state=False)
    port = await scene.start()
    data = os.urandom(1000)
    assert await exchange(port, data) == data
    await scene.roll()
    await scene.says(r"connection-string\.not-kept: .*parts=key .*Read-only file system")
    scene.exchange(scene.with_new_key())
    await scene.says(r"connection-string\.kept: .*parts=key")
    await scene.until_old_key_is_revoked()
    shown = json.loads(await scene.run("keys", "list", "orders", "--state", deployment.state, "--json"))
    assert not [entry for entry in shown if "roll" in entry]
    assert await exchange(port, data) == data
    nursery.cancel_scope.cancel()
