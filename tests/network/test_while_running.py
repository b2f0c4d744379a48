"""Real processes whose firewall changes, or that are killed or stopped, while applications talk all the time."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from ..deployments import Forward, Program
from ..endtoend.talking import SHORT_PAUSE_SECONDS, Talker, all_move, all_send
from ..endtoend.targets import echo
from ..endtoend.test_relay_upgrade import none_is_left
from ..leaks import Holdings, assert_back_to, of_program, settled
from ..waiting import async_wait_until, wait_until
from .conftest import NetworkDeployment
from .lab import CLIENT, CONTROL, DATA, HTTPS, NATIVE, PRIVATE, Lab, State

STREAMS = 5
UPGRADE_INTERVAL = 1
#: A black hole is noticed within 15 s, and sessions wait 25 s from then on; the rest is for busy machines.
CHANGE_SECONDS = 60
#: What a client's log says of each of its data channels.
#: The name of the tasks that wait for channels over WebSocket.
_WATCH = "task hybridrelay.streams.watching.WatchedRegistration._watch"
_CHANNEL = r"session\.(?:opened|resumed|moved): .* route='(\w+) at "
#: A firewall that resets one end of a connection leaves the other to keepalive, which asks after 30 s of silence.
REAPED_SECONDS = 60

pytestmark = pytest.mark.timeout(240)

#: What `nox -s network` tries on top: each is like another one that is tried with every change.
SLOW = pytest.mark.slow


@attrs.frozen
class Scene:
    """Relay, connector and forward, and applications that talk through them."""

    lab: Lab
    deployment: NetworkDeployment
    connector: Program
    forward: Forward
    talkers: list[Talker]
    remark: Callable[[str], None]

    @property
    def relay(self) -> Program:
        """The one that runs now."""
        return [one for one in self.deployment.programs if one.name == "hybridrelay relay"][-1]

    @property
    def programs(self) -> tuple[Program, Program, Program]:
        """Relay, connector and forward."""
        return self.relay, self.connector, self.forward.program

    async def everybody_talks(self) -> None:
        await all_move(self.talkers)

    async def route_becomes(self, *routes: str) -> None:
        """Wait until both sides' data channels use one of these routes, and bytes flow there."""

        async def there() -> bool:
            return all(route in routes for route in self.routes())

        try:
            await async_wait_until(there, seconds=CHANGE_SECONDS, what=f"routes {routes}")
        except TimeoutError as exc:
            raise AssertionError(f"{exc}, but {self.routes()}\n{self.logs()}") from None
        await self.everybody_talks()

    def routes(self) -> tuple[str, str]:
        """Over which route the last data channel of the client, and of the connector, goes, as their logs say."""
        connector = wait_until(
            lambda: re.findall(r"session\.(?:opened|resumed): .* route='(\w+) at ", self.connector.err),
            seconds=10,
            what="the connector's route in its log",
        )
        return self._client_routes()[-1], connector[-1]

    def channels(self) -> int:
        """How many data channels there have been."""
        return len(self._client_routes())

    def _client_routes(self) -> list[str]:
        # A line of the log is written a moment after what it reports.
        return wait_until(
            lambda: re.findall(_CHANNEL, self.forward.program.err), seconds=10, what="the client's route in its log"
        )

    async def another_channel(self, before: int) -> None:
        async def there() -> bool:
            return self.channels() > before

        await async_wait_until(there, seconds=CHANGE_SECONDS, what=f"another data channel\n{self.logs()}")
        await self.everybody_talks()

    def logs(self) -> str:
        return "\n\n".join(f"{one.name}:\n{one.err}" for one in self.programs)

    @contextlib.asynccontextmanager
    async def logs_on_failure(self) -> AsyncIterator[None]:
        """An application that was reset does not know why; the logs do."""
        try:
            yield
        except BaseException:
            print(self.logs())
            raise

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        began = trio.current_time()
        yield
        self.remark(f"{what}: after {trio.current_time() - began:.1f} s")


@contextlib.asynccontextmanager
async def open_scene(deployment: NetworkDeployment, remark: Callable[[str], None]) -> AsyncIterator[Scene]:
    """The target, a connector and a forward; nobody talks yet."""
    target = deployment.lab.listen(PRIVATE)
    published = deployment.create("live", target.getsockname())
    arguments = ["--upgrade-interval", str(UPGRADE_INTERVAL)]
    connector = deployment.start_connector(published, arguments=arguments)
    forward = deployment.start_forward(published, mode="auto", arguments=arguments)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(target))
    talkers = [Talker(forward.port, SHORT_PAUSE_SECONDS) for _ in range(STREAMS)]
    scene = Scene(deployment.lab, deployment, connector, forward, talkers, remark)
    async with scene.logs_on_failure(), trio.open_nursery() as serving:
        await serving.start(partial(trio.serve_listeners, _serve_echo, [listener]))
        yield scene
        serving.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def talk(scene: Scene) -> AsyncIterator[None]:
    """During the block. At its end every application has to have got back exactly what it sent."""
    # The applications are in the client's namespace.
    with scene.lab.inside(CLIENT):
        async with trio.open_nursery() as talking:
            for talker in scene.talkers:
                talking.start_soon(talker.run)
            await scene.everybody_talks()
            yield
            await scene.everybody_talks()
            for talker in scene.talkers:
                talker.stop()


@pytest.fixture(scope="session")
def calm(namespaces: Lab, tmp_path_factory: pytest.TempPathFactory) -> list[Holdings]:
    """What relay, connector and forward hold after a scene in which nothing has happened."""

    async def measure() -> list[Holdings]:
        async with open_scene(deployment, lambda line: None) as scene:
            async with talk(scene):
                pass
            return [await settled(partial(of_program, program)) for program in scene.programs]

    with NetworkDeployment(tmp_path_factory.mktemp("calm"), namespaces) as deployment:
        deployment.start_relay()
        return trio.run(measure)


def over_websocket(base: Holdings) -> Holdings:
    """What is held at most if each channel of `base` goes over WebSocket: a task waits for each.

    Control channels need not return to native TCP.
    """
    channels = base.get("control_sessions", 0) + base.get("data_sessions", 0)
    return {**base, _WATCH: channels, "tasks": base["tasks"] - base.get(_WATCH, 0) + channels}


def children(pid: int) -> list[int]:
    """The processes that a process has started, in any of its threads."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for of_thread in lists for child in of_thread.read_text().split()]


SetScene = Callable[[], contextlib.AbstractAsyncContextManager[Scene]]


@pytest.fixture
async def set_scene(
    calm: list[Holdings], deployment: NetworkDeployment, lab: Lab, remark: Callable[[str], None]
) -> SetScene:
    """Starts the scene and lets everybody talk in it. Afterwards, with the network open again, nobody holds more than
    after a calm one."""

    @contextlib.asynccontextmanager
    async def make() -> AsyncIterator[Scene]:
        async with open_scene(deployment, remark) as scene:
            async with talk(scene):
                yield scene
            lab.reset()
            for program, base in zip(scene.programs, calm, strict=True):
                assert program.process.poll() is None
                look = partial(of_program, program)
                await assert_back_to(
                    over_websocket(base), look, what=program.name, or_less=True, seconds=REAPED_SECONDS
                )

    return make


async def _serve_echo(stream: trio.SocketStream) -> None:
    async with stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await echo(stream)


@pytest.mark.parametrize(
    "state",
    [State.DROPPED, pytest.param(State.REFUSED, marks=SLOW), pytest.param(State.STALLED, marks=SLOW)],
    ids=lambda state: state.value,
)
async def test_upgrades_when_native_ports_open(set_scene: SetScene, lab: Lab, state: State) -> None:
    lab.set(state, *NATIVE)
    async with set_scene() as scene:
        await scene.route_becomes("wss")
        lab.set(State.OPEN, *NATIVE)
        with scene.timed(f"native ports open again after being {state.value}: over tcp"):
            await scene.route_becomes("tcp")


@pytest.mark.parametrize("side", [CLIENT, PRIVATE])
async def test_upgrades_on_one_side_alone(set_scene: SetScene, lab: Lab, side: str) -> None:
    lab.set(State.DROPPED, *NATIVE, sides=[side])
    async with set_scene() as scene:
        assert scene.routes() == (("wss", "tcp") if side == CLIENT else ("tcp", "wss"))
        lab.set(State.OPEN, *NATIVE)
        await scene.route_becomes("tcp")


async def test_falls_back_and_upgrades_again(set_scene: SetScene, lab: Lab) -> None:
    """All the way: down to port 80, and up again."""
    async with set_scene() as scene:
        assert scene.routes() == ("tcp", "tcp")
        lab.set(State.DROPPED, *NATIVE)
        with scene.timed("native ports dropped in the middle: over wss"):
            await scene.route_becomes("wss")
        lab.set(State.REFUSED, HTTPS)
        with scene.timed("port 443 cut with resets in the middle: over ws"):
            await scene.route_becomes("ws")
        lab.set(State.OPEN)
        with scene.timed("everything open: over tcp"):
            await scene.route_becomes("tcp")


@pytest.mark.parametrize("port", [pytest.param(DATA, marks=SLOW), CONTROL])
async def test_falls_where_one_native_port_is_dropped(set_scene: SetScene, lab: Lab, port: int) -> None:
    """Without 9352 nothing can stay on native. Without 5671 what runs may stay; nobody may lose a byte."""
    async with set_scene() as scene:
        lab.set(State.DROPPED, port)
        if port == DATA:
            await scene.route_becomes("wss")
        else:

            async def noticed() -> bool:
                patterns = ("registered at a relay: connection=live", "route=wss$")
                return all(re.search(pattern, scene.connector.err, re.MULTILINE) for pattern in patterns)

            await async_wait_until(noticed, seconds=CHANGE_SECONDS, what=scene.logs())
        await scene.everybody_talks()


async def test_everything_is_cut_for_a_while(set_scene: SetScene, lab: Lab) -> None:
    async with set_scene() as scene:
        before = scene.channels()
        lab.set(State.DROPPED)

        # Until the silence has been noticed: less would not be a test of resumption.
        async def noticed() -> bool:
            return "session.interrupted" in scene.forward.program.err

        await async_wait_until(noticed, seconds=CHANGE_SECONDS, what=f"it is noticed\n{scene.logs()}")
        lab.set(State.OPEN)
        with scene.timed("everything dropped until it was noticed, then open: resumed"):
            await scene.another_channel(before)
        await scene.route_becomes("tcp")


async def test_a_short_silence_is_slept_through(set_scene: SetScene, lab: Lab) -> None:
    """Three seconds without a packet, which TCP alone recovers from."""
    async with set_scene() as scene:
        before = scene.channels()
        lab.set(State.DROPPED)
        await trio.sleep(3)
        lab.set(State.OPEN)
        await scene.everybody_talks()
        assert scene.channels() == before


@pytest.mark.parametrize("times", [1, pytest.param(3, marks=SLOW)])
async def test_resets_out_of_nowhere(set_scene: SetScene, lab: Lab, times: int) -> None:
    """A firewall answers every packet of a live data channel with resets to both ends."""
    async with set_scene() as scene:
        for _ in range(times):
            before = scene.channels()
            lab.set(State.REFUSED, DATA)

            async def noticed(before: int = before) -> bool:
                return scene.channels() > before

            with scene.timed("data channel reset by a firewall, port 9352 refused: resumed"):
                await async_wait_until(noticed, seconds=CHANGE_SECONDS, what=scene.logs())
                await scene.everybody_talks()
            lab.set(State.OPEN)
            await scene.route_becomes("tcp")


async def test_the_relay_is_killed_and_started_again(set_scene: SetScene) -> None:
    """Once without its workers, which keep the data channel; then with them, so that the session has to resume.

    In this order because a pair that was taken over has a different task in the relay than one that was joined there,
    and the scene ends by comparing the relay's tasks with those at its beginning.
    """
    async with set_scene() as scene:
        for with_workers in (False, True):
            before, workers = scene.channels(), children(scene.relay.process.pid)
            await all_send(scene.talkers)
            scene.relay.kill()
            for worker in workers if with_workers else ():
                os.kill(worker, signal.SIGKILL)
            await trio.to_thread.run_sync(scene.deployment.start_relay)
            if with_workers or not workers:
                with scene.timed("relay killed and started again: resumed"):
                    await scene.another_channel(before)
            else:
                await scene.everybody_talks()
                assert scene.channels() == before, "a worker has kept the data channel"
                # Until then, a kill of the new relay's workers would leave the data channel as it is.
                await none_is_left(workers)


@pytest.mark.parametrize(
    ("who", "seconds"),
    [
        ("relay", 3),
        # What both of its neighbours have given up meanwhile, while it still has an offer to answer.
        ("connector", 18),
        pytest.param("connector", 3, marks=SLOW),
        pytest.param("forward", 3, marks=SLOW),
        pytest.param("relay", 18, marks=SLOW),
        pytest.param("forward", 18, marks=SLOW),
    ],
)
async def test_a_stopped_process_goes_on(set_scene: SetScene, who: str, seconds: int) -> None:
    """It is stopped for less or more time than liveness needs to notice, and always less than the resume deadline."""
    async with set_scene() as scene:
        program = dict(zip(("relay", "connector", "forward"), scene.programs, strict=True))[who]
        await all_send(scene.talkers)
        program.process.send_signal(signal.SIGSTOP)
        try:
            # The length of the stop is what is tried here.
            await trio.sleep(seconds)
        finally:
            program.process.send_signal(signal.SIGCONT)
        with scene.timed(f"{who} stopped for {seconds} s: all streams go on"):
            await scene.everybody_talks()
