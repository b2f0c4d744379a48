"""The relay stops, or is killed, and starts again: its workers go on meanwhile, and the next one has them."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay.relay.store.joined import JoinedFile

from ..deployments import Deployment, Forward, Program
from ..waiting import async_wait_until
from .talking import Talker, all_move, all_send
from .targets import echo, serve

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux")

#: Applications that talk at the same time, and sessions that they share.
TALKERS = 10
SESSIONS = 2
RESUME_SECONDS = 60
#: How long a session may take to resume. On a busy machine, a relay does not start within the default.
PATIENT = ("--resume-deadline", "600")


@attrs.define(eq=False)
class Scene:
    """A relay, and applications that talk through it: everything that they send comes back, or they fail."""

    deployment: Deployment
    forwards: list[Forward]
    talkers: list[Talker]

    @property
    def relay(self) -> Program:
        return self.deployment.programs[0]

    def workers(self) -> list[int]:
        """The process ids of the relay's workers."""
        found: list[int] = []
        for task in Path(f"/proc/{self.relay.pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
        return [pid for pid in found if is_worker(pid)]

    async def flows(self) -> None:
        """Every application gets something back that it sends from now on."""
        for _ in range(3):
            await all_move(self.talkers)

    async def end(self, how: Callable[[Program], object]) -> None:
        """End the relay, while bytes are on their way."""
        await all_send(self.talkers)
        await trio.to_thread.run_sync(how, self.relay)

    async def start(self, *arguments: str) -> None:
        """Start the next main process, on the same ports."""
        self.deployment.programs.pop(0).close()
        start = partial(self.deployment.start_relay, "--workers", "1", *arguments)
        await trio.to_thread.run_sync(start)
        self.deployment.programs.insert(0, self.deployment.programs.pop())

    async def run(self, *arguments: str) -> None:
        """Run a command on the relay's host, which has to succeed."""
        command = partial(self.deployment.run, *arguments, "--state", self.deployment.state)
        done = await trio.to_thread.run_sync(command)
        assert done.returncode == 0, done.stderr

    async def taken_over(self) -> None:
        await self.relay.logs(f"relay.worker-taken-over.*pairs={SESSIONS}")

    def assert_nothing_was_lost(self) -> None:
        """No session has lost its data channel."""
        for forward in self.forwards:
            assert not re.search(r"session\.(lost|resumed|interrupted)", forward.program.err), forward.program.err


def is_worker(pid: int) -> bool:
    """Whether a process runs, and is a worker."""
    try:
        return b"hybridrelay.relay.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def none_is_left(workers: list[int]) -> None:
    async def gone() -> bool:
        return not any(map(is_worker, workers))

    await async_wait_until(gone, seconds=RESUME_SECONDS, what="the workers end")


@asynccontextmanager
async def upgrading(tmp_path: Path, *arguments: str) -> AsyncIterator[Scene]:
    """Applications talk during the block, and for a moment after it. All that they send has to come back."""
    async with trio.open_nursery() as targets:
        with Deployment(tmp_path) as deployment:
            deployment.start_relay("--workers", "1", *arguments)
            published = deployment.create("db", await serve(targets, echo))
            deployment.start_connector(published, arguments=["--mode", "tcp", *PATIENT])
            forwards = [deployment.start_forward(published, arguments=PATIENT) for _ in range(SESSIONS)]
            talkers = [Talker(forwards[number % SESSIONS].port) for number in range(TALKERS)]
            scene = Scene(deployment, forwards, talkers)
            async with trio.open_nursery() as nursery:
                for talker in talkers:
                    nursery.start_soon(talker.run)
                await scene.flows()
                yield scene
                await scene.flows()
                for talker in talkers:
                    talker.stop()
                nursery.cancel_scope.deadline = trio.current_time() + RESUME_SECONDS
            assert not nursery.cancel_scope.cancelled_caught
        targets.cancel_scope.cancel()


async def test_data_goes_on_while_the_relay_is_away(tmp_path: Path) -> None:
    async with upgrading(tmp_path) as scene:
        for end in (Program.kill, Program.kill, Program.terminate, Program.kill):
            await scene.end(end)
            await scene.flows()  # nobody but the worker is there
            await scene.start()
            await scene.taken_over()
            await scene.flows()
        scene.assert_nothing_was_lost()
        # The relay can be used as if it had never been away.
        statistics = await trio.to_thread.run_sync(scene.relay.statistics)
        assert statistics["joined_pairs"] == SESSIONS
        await scene.relay.logs("listener.registered")
        talkers, relay = scene.talkers, scene.relay
    ends = re.findall(r"rendezvous\.ended.*outcome=(\S+).*bytes_to_client=(\d+)", relay.err)
    assert len(ends) == SESSIONS
    moved = sum(int(size) for _, size in ends)
    assert moved > sum(talker.received for talker in talkers)


@pytest.mark.parametrize("end", [Program.kill, Program.terminate])
async def test_the_next_relay_need_not_keep_pairs_itself(tmp_path: Path, end: Callable[[Program], object]) -> None:
    async with upgrading(tmp_path) as scene:
        await scene.end(end)
        await scene.flows()
        await scene.start("--keep-pairs", "0")
        await scene.taken_over()
        await scene.flows()
        scene.assert_nothing_was_lost()
        workers = scene.workers()
        await scene.end(end)
        await none_is_left(workers)
        await scene.start()


@pytest.mark.parametrize("when", ["while it is away", "when it is back"])
async def test_a_revoked_key_ends_a_session_that_was_taken_over(tmp_path: Path, when: str) -> None:
    revoke = ("keys", "revoke", "db", "--rule", "application", "--key", "primary")
    async with trio.open_nursery() as targets:
        with Deployment(tmp_path) as deployment:
            deployment.start_relay("--workers", "1")
            published = deployment.create("db", await serve(targets, echo))
            deployment.start_connector(published, arguments=["--mode", "tcp"])
            forward = deployment.start_forward(published)
            scene = Scene(deployment, [forward], [])
            async with await trio.open_tcp_stream("127.0.0.1", forward.port) as stream:
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"
                await scene.end(Program.kill)
                if when == "while it is away":
                    await scene.run(*revoke)
                await scene.start()
                await scene.relay.logs("relay.worker-taken-over.*pairs=1")
                if when == "when it is back":
                    await scene.run(*revoke)
                await scene.relay.logs("rendezvous.ended.*outcome=revoked.*key-revoked bytes_to_client=[1-9]")
        targets.cancel_scope.cancel()


async def test_after_the_time_limit_sessions_are_reset_and_resume(tmp_path: Path) -> None:
    async with upgrading(tmp_path, "--keep-pairs", "1") as scene:
        workers = scene.workers()
        await scene.end(Program.kill)
        await scene.flows()
        await none_is_left(workers)
        await scene.start()


async def test_sessions_resume_when_the_worker_is_killed_while_it_is_alone(tmp_path: Path) -> None:
    async with upgrading(tmp_path) as scene:
        workers = scene.workers()
        await scene.end(Program.kill)
        await scene.flows()
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        await scene.start()


@pytest.mark.parametrize("how", ["twice", "to the worker, too"])
async def test_an_operator_can_end_everything_at_once(tmp_path: Path, how: str) -> None:
    async with upgrading(tmp_path) as scene:
        workers = scene.workers()
        if how == "twice":
            scene.relay.process.send_signal(signal.SIGTERM)
            await scene.relay.logs("program.stopping")
            scene.relay.process.send_signal(signal.SIGTERM)
            await trio.to_thread.run_sync(scene.relay.wait)
        else:
            for worker in workers:
                os.kill(worker, signal.SIGTERM)
            await scene.flows()  # not before the relay ends
            await scene.end(Program.terminate)
        await none_is_left(workers)
        await scene.start()


async def test_each_rendezvous_ends_with_one_event_although_the_relay_and_its_worker_are_killed(
    tmp_path: Path,
) -> None:
    """A main process that is killed reports nothing, and neither can its worker: the next main process does."""
    async with upgrading(tmp_path, "--keep-pairs", "0") as scene:
        first, state = scene.relay, Path(scene.deployment.state)

        async def saved() -> list[str]:
            ids = await trio.to_thread.run_sync(joined_ids, state)
            return ids if len(ids) == SESSIONS else []

        joined = await async_wait_until(saved, seconds=60, what="the list of joined rendezvous is written")
        workers = scene.workers()
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)  # it must not report anything before it is killed
        await scene.end(Program.kill)
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        await scene.start("--keep-pairs", "0")
        for id_ in joined:
            await scene.relay.logs(rf"rendezvous\.ended.*{id_}")
        second = scene.relay
    ends = re.findall(r"rendezvous\.ended.*outcome=lost", second.err)
    assert len(ends) == SESSIONS
    for id_ in joined:
        assert len(re.findall(rf"rendezvous\.ended.*{id_}", first.err + second.err)) == 1


@pytest.mark.parametrize("keep", ["0", "60"])
async def test_a_relay_that_is_stopped_leaves_nothing_to_be_reported(tmp_path: Path, keep: str) -> None:
    async with upgrading(tmp_path, "--keep-pairs", keep) as scene:
        state = Path(scene.deployment.state)
        await scene.end(Program.terminate)
        left = await trio.to_thread.run_sync(joined_ids, state)
        assert len(left) == (0 if keep == "0" else SESSIONS)
        await scene.start("--keep-pairs", keep)
        await scene.flows()
        relay = scene.relay
    assert "outcome=lost" not in relay.err


def joined_ids(state: Path) -> list[str]:
    """The ids in the relay's list."""
    with closing(JoinedFile(state)) as file:
        return [one.id for one in file.load().entries]


async def test_a_worker_without_sessions_ends_with_the_relay(tmp_path: Path) -> None:
    with Deployment(tmp_path) as deployment:
        relay = deployment.start_relay("--workers", "2")
        scene = Scene(deployment, [], [])

        async def run() -> bool:
            return len(scene.workers()) == 2

        await async_wait_until(run, seconds=RESUME_SECONDS, what="the workers run")
        workers = scene.workers()
        await trio.to_thread.run_sync(relay.kill)
        await none_is_left(workers)
