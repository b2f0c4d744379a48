"""Applications with rules of their own: what ends with a rule, and what does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from ..deployments import Deployment
from .targets import ask, echo, serve


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path) as deployment:
        yield deployment


async def test_one_application_ends_with_its_rule(deployment: Deployment, nursery: trio.Nursery) -> None:
    deployment.start_relay()
    published = deployment.create("orders", await serve(nursery, echo))
    await trio.to_thread.run_sync(deployment.start_connector, published)
    state = ("--state", deployment.state)
    reporting = deployment.directory / "reporting.application"
    for command in (
        ("rules", "set", "orders", "--rule", "reporting", "--rights", "send", *state),
        (
            *("connections", "issue", "orders", "--role", "application", "--label", "reporting"),
            *("--rule", "reporting", *state, "--authority-file", published.authority, "--out", reporting),
        ),
    ):
        done = deployment.run(*command)
        assert done.returncode == 0, done.stderr
    usual = await trio.to_thread.run_sync(deployment.start_forward, published)
    other = await trio.to_thread.run_sync(deployment.start_forward, reporting)
    with trio.fail_after(60):
        async with (
            await trio.open_tcp_stream("127.0.0.1", usual.port) as kept,
            await trio.open_tcp_stream("127.0.0.1", other.port) as ended,
        ):
            for stream in (kept, ended):
                assert await ask(stream, b"before") == b"before"
            gone = deployment.run("rules", "delete", "orders", "--rule", "reporting", *state)
            assert gone.returncode == 0, gone.stderr
            with pytest.raises(trio.BrokenResourceError):
                await ended.receive_some()
            assert await ask(kept, b"after") == b"after"
    assert await trio.to_thread.run_sync(other.program.wait) == 1
    assert "the shared access key name is unknown" in other.program.err
    nursery.cancel_scope.cancel()
