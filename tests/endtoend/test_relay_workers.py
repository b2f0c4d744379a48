"""A relay whose worker processes move the bytes: workers that die, limits, revoked keys, and the end of the relay."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from ..deployments import Deployment, Forward, Program
from ..waiting import async_wait_until, patience
from .talking import SHORT_PAUSE_SECONDS, Talker
from .targets import echo, serve

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux")

WORKERS = 2
#: A lost channel is noticed, and replaced.
RESUME_SECONDS = 60


@attrs.define(eq=False)
class Scene:
    """A relay with workers, and a client and a connector that use native TCP."""

    deployment: Deployment
    forward: Forward

    @property
    def relay(self) -> Program:
        return self.deployment.programs[0]

    async def run(self, *arguments: str) -> str:
        """Run a command on the relay's host, which has to succeed. Returns its output."""
        command = partial(self.deployment.run, *arguments, "--state", self.deployment.state)
        done = await trio.to_thread.run_sync(command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    async def until_workers_have(self, pairs: int) -> None:
        async def have() -> bool:
            statistics = await trio.to_thread.run_sync(self.relay.statistics)
            return bool(statistics["pairs_of_workers"] == pairs)

        await async_wait_until(have, seconds=RESUME_SECONDS, what=f"workers have {pairs} pairs")

    def workers(self) -> list[int]:
        """The process ids of the workers that run."""
        found = []
        for task in Path(f"/proc/{self.relay.pid}/task").iterdir():
            found += (task / "children").read_text().split()
        return [int(one) for one in found if is_worker(int(one))]


def is_worker(pid: int) -> bool:
    """Whether a process runs, and is a worker."""
    try:
        return b"hybridrelay.relay.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


@asynccontextmanager
async def talking(tmp_path: Path, *arguments: str) -> AsyncIterator[tuple[Scene, Talker]]:
    """An application talks during the block, and for a moment after it. All that it has sent has to come back."""
    async with trio.open_nursery() as targets:
        with Deployment(tmp_path) as deployment:
            deployment.start_relay("--workers", str(WORKERS), *arguments)
            published = deployment.create("db", await serve(targets, echo))
            deployment.start_connector(published, arguments=["--mode", "tcp"])
            scene = Scene(deployment, deployment.start_forward(published))
            talker = Talker(scene.forward.port, SHORT_PAUSE_SECONDS)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(talker.run)
                await goes_on(talker)
                await scene.until_workers_have(1)
                yield scene, talker
                await goes_on(talker)
                talker.stop()
                nursery.cancel_scope.deadline = trio.current_time() + patience(RESUME_SECONDS)
            assert not nursery.cancel_scope.cancelled_caught
        targets.cancel_scope.cancel()


async def goes_on(talker: Talker) -> None:
    received = talker.received
    with trio.fail_after(patience(RESUME_SECONDS)):
        await talker.more_than(received + 50_000)


async def test_sessions_resume_when_a_worker_is_killed(tmp_path: Path) -> None:
    async with talking(tmp_path) as (scene, talker):
        workers = scene.workers()
        assert len(workers) == WORKERS
        busy = max(workers, key=lambda pid: len(os.listdir(f"/proc/{pid}/fd")))
        await talker.sends()
        os.kill(busy, signal.SIGKILL)
        await goes_on(talker)
        await scene.relay.logs("relay.worker-ended.*status=SIGKILL pairs=1")
        await scene.until_workers_have(1)  # the other one has it

        async def replaced() -> bool:
            return len(scene.workers()) == WORKERS

        await async_wait_until(replaced, seconds=RESUME_SECONDS, what="it is replaced")


async def test_a_limit_applies_to_pairs_that_workers_have(tmp_path: Path) -> None:
    async with talking(tmp_path) as (scene, talker):
        await scene.run("connections", "limits", "db", "--bytes-per-second", "10MB")
        await scene.until_workers_have(0)
        await goes_on(talker)


async def test_the_status_counts_what_workers_move(tmp_path: Path) -> None:
    async with talking(tmp_path) as (scene, talker):

        async def shown() -> bool:
            used = await scene.run("usage", "db", "--json")
            return any(
                int(word.strip(",")) > talker.received // 2 for word in used.split() if word.strip(",").isdigit()
            )

        await async_wait_until(shown, seconds=RESUME_SECONDS, what="the bytes are counted while they flow")


async def test_workers_that_keep_nothing_end_with_the_relay(tmp_path: Path) -> None:
    async with talking(tmp_path, "--keep-pairs", "0") as (scene, talker):
        for end in (Program.kill, Program.terminate):
            workers = scene.workers()
            await talker.sends()
            await trio.to_thread.run_sync(end, scene.relay)

            async def none_is_left(workers: list[int] = workers) -> bool:
                return not any(map(is_worker, workers))

            await async_wait_until(none_is_left, seconds=RESUME_SECONDS, what="the workers end")
            ended = scene.deployment.programs.pop(0)
            ended.close()
            await trio.to_thread.run_sync(scene.deployment.start_relay, "--keep-pairs", "0")
            scene.deployment.programs.insert(0, scene.deployment.programs.pop())
            await goes_on(talker)
            await scene.until_workers_have(1)


async def test_a_revoked_key_ends_a_pair_that_a_worker_has(tmp_path: Path) -> None:
    with Deployment(tmp_path) as deployment:
        async with trio.open_nursery() as targets:
            deployment.start_relay("--workers", "1")
            published = deployment.create("db", await serve(targets, echo))
            deployment.start_connector(published, arguments=["--mode", "tcp"])
            scene = Scene(deployment, deployment.start_forward(published))
            async with await trio.open_tcp_stream("127.0.0.1", scene.forward.port) as stream:
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"
                await scene.until_workers_have(1)
                await scene.run("keys", "revoke", "db", "--rule", "application", "--key", "primary")
                await scene.until_workers_have(0)
                await scene.relay.logs("rendezvous.ended.*key-revoked")
            targets.cancel_scope.cancel()
