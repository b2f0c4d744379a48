"""Real processes whose firewall changes, and who are killed or stopped, while applications talk all the time."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import AsyncIterator, Callable
from functools import partial

import attrs
import pytest
import trio

from ..deployments import Forward, Program
from ..endtoend.talking import Talker, all_move
from ..endtoend.targets import echo
from ..waiting import async_wait_until
from .conftest import NetworkDeployment
from .lab import CLIENT, CONTROL, DATA, HTTPS, NATIVE, PRIVATE, Lab, State

STREAMS = 5
CLIMB_SECONDS = 1
#: A black hole is noticed within 15 s, and sessions wait 25 s from then on; the rest is for busy machines.
CHANGE_SECONDS = 60
#: What a client's log says of each of its data channels.
_CHANNEL = r": (?:connected over|resumed over|moved to) (\w+) at "

pytestmark = pytest.mark.timeout(240)


@attrs.frozen
class Scene:
    """Everything runs, and applications talk."""

    lab: Lab
    deployment: NetworkDeployment
    connector: Program
    forward: Forward
    talkers: list[Talker]
    remark: Callable[[str], None]

    async def everybody_talks(self) -> None:
        await all_move(self.talkers)

    async def route_becomes(self, *routes: str) -> None:
        """Until both sides' data channels go over one of these routes, and bytes flow there."""

        async def there() -> bool:
            return all(route in routes for route in self.routes())

        try:
            await async_wait_until(there, seconds=CHANGE_SECONDS, what=f"routes {routes}")
        except TimeoutError as exc:
            raise AssertionError(f"{exc}, but {self.routes()}\n{self.logs()}") from None
        await self.everybody_talks()

    def routes(self) -> tuple[str, str]:
        """Over which route the last data channel of the client, and of the connector, goes, as their logs say."""
        return (
            re.findall(_CHANNEL, self.forward.program.err)[-1],
            re.findall(r": session of .* (?:opened|resumed) over (\w+) at ", self.connector.err)[-1],
        )

    def channels(self) -> int:
        """How many data channels there have been."""
        return len(re.findall(_CHANNEL, self.forward.program.err))

    async def another_channel(self, before: int) -> None:
        async def there() -> bool:
            return self.channels() > before

        await async_wait_until(there, seconds=CHANGE_SECONDS, what=f"another data channel\n{self.logs()}")
        await self.everybody_talks()

    def logs(self) -> str:
        relay = self.deployment.programs[0]
        return "\n\n".join(f"{one.name}:\n{one.err}" for one in (relay, self.connector, self.forward.program))

    @contextlib.asynccontextmanager
    async def logs_on_failure(self) -> AsyncIterator[None]:
        """An application that was reset does not know why; the logs do."""
        try:
            yield
        except BaseException:
            print(self.logs())
            raise

    @contextlib.contextmanager
    def timed(self, what: str):
        began = trio.current_time()
        yield
        self.remark(f"{what}: after {trio.current_time() - began:.1f} s")


@pytest.fixture
async def set_scene(
    deployment: NetworkDeployment, lab: Lab, remark: Callable[[str], None]
) -> AsyncIterator[Callable[[], contextlib.AbstractAsyncContextManager[Scene]]]:
    """Starts the scene; at its end, every application has to have got back exactly what it sent."""

    @contextlib.asynccontextmanager
    async def make() -> AsyncIterator[Scene]:
        target = lab.listen(PRIVATE)
        published = deployment.create("live", target.getsockname())
        arguments = ["--climb-seconds", str(CLIMB_SECONDS)]
        connector = deployment.start_connector(published, arguments=arguments)
        forward = deployment.start_forward(published, mode="auto", arguments=arguments)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(target))
        talkers = [Talker(forward.port) for _ in range(STREAMS)]
        scene = Scene(lab, deployment, connector, forward, talkers, remark)
        async with scene.logs_on_failure(), trio.open_nursery() as serving:
            await serving.start(partial(trio.serve_listeners, _serve_echo, [listener]))
            # The applications are in the client's namespace.
            with lab.inside(CLIENT):
                async with trio.open_nursery() as talking:
                    for talker in talkers:
                        talking.start_soon(talker.run)
                    await scene.everybody_talks()
                    yield scene
                    await scene.everybody_talks()
                    for talker in talkers:
                        talker.stop()
            assert connector.process.poll() is None
            assert forward.program.process.poll() is None
            serving.cancel_scope.cancel()

    return make


async def _serve_echo(stream: trio.SocketStream) -> None:
    async with stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await echo(stream)


SetScene = Callable[[], contextlib.AbstractAsyncContextManager[Scene]]


@pytest.mark.parametrize("state", [State.REFUSED, State.SWALLOWED, State.STALLED], ids=lambda state: state.value)
async def test_climbs_when_native_ports_open(set_scene: SetScene, lab: Lab, state: State) -> None:
    lab.set(state, *NATIVE)
    async with set_scene() as scene:
        await scene.route_becomes("wss")
        lab.set(State.OPEN, *NATIVE)
        with scene.timed(f"native ports open again after being {state.value}: over tcp"):
            await scene.route_becomes("tcp")


@pytest.mark.parametrize("side", [CLIENT, PRIVATE])
async def test_climbs_on_one_side_alone(set_scene: SetScene, lab: Lab, side: str) -> None:
    lab.set(State.SWALLOWED, *NATIVE, sides=[side])
    async with set_scene() as scene:
        assert scene.routes() == (("wss", "tcp") if side == CLIENT else ("tcp", "wss"))
        lab.set(State.OPEN, *NATIVE)
        await scene.route_becomes("tcp")


async def test_falls_and_climbs_again(set_scene: SetScene, lab: Lab) -> None:
    """All the way: down to port 80, and up again."""
    async with set_scene() as scene:
        assert scene.routes() == ("tcp", "tcp")
        lab.set(State.SWALLOWED, *NATIVE)
        with scene.timed("native ports swallowed in the middle: over wss"):
            await scene.route_becomes("wss")
        lab.set(State.REFUSED, HTTPS)
        with scene.timed("port 443 cut with resets in the middle: over ws"):
            await scene.route_becomes("ws")
        lab.set(State.OPEN)
        with scene.timed("everything open: over tcp"):
            await scene.route_becomes("tcp")


@pytest.mark.parametrize("port", [DATA, CONTROL])
async def test_falls_where_one_native_port_is_swallowed(set_scene: SetScene, lab: Lab, port: int) -> None:
    """Without 9352 nothing can stay on native. Without 5671 what runs may stay; nobody may lose a byte."""
    async with set_scene() as scene:
        lab.set(State.SWALLOWED, port)
        if port == DATA:
            await scene.route_becomes("wss")
        else:

            async def noticed() -> bool:
                return "listening for live" in scene.connector.err and re.search(
                    r"over wss$", scene.connector.err, re.MULTILINE
                )

            await async_wait_until(noticed, seconds=CHANGE_SECONDS, what=scene.logs())
        await scene.everybody_talks()


async def test_everything_is_cut_for_a_while(set_scene: SetScene, lab: Lab) -> None:
    async with set_scene() as scene:
        before = scene.channels()
        lab.set(State.SWALLOWED)

        # Until the silence has been noticed: less would be no test of resumption.
        async def noticed() -> bool:
            return "the data channel was lost" in scene.forward.program.err

        await async_wait_until(noticed, seconds=CHANGE_SECONDS, what=f"it is noticed\n{scene.logs()}")
        lab.set(State.OPEN)
        with scene.timed("everything swallowed until it was noticed, then open: resumed"):
            await scene.another_channel(before)
        await scene.route_becomes("tcp")


async def test_a_short_silence_is_slept_through(set_scene: SetScene, lab: Lab) -> None:
    """Three seconds without a packet: TCP alone repairs that."""
    async with set_scene() as scene:
        before = scene.channels()
        lab.set(State.SWALLOWED)
        await trio.sleep(3)
        lab.set(State.OPEN)
        await scene.everybody_talks()
        assert scene.channels() == before


async def test_resets_out_of_nowhere(set_scene: SetScene, lab: Lab) -> None:
    """A firewall answers every packet of a live data channel with resets to both ends."""
    async with set_scene() as scene:
        for _ in range(3):
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
    async with set_scene() as scene:
        relay = scene.deployment.programs[0]
        for _ in range(2):
            before = scene.channels()
            relay.kill()
            relay = await trio.to_thread.run_sync(scene.deployment.start_relay)
            with scene.timed("relay killed and started again: resumed"):
                await scene.another_channel(before)


@pytest.mark.parametrize("who", ["relay", "connector", "forward"])
@pytest.mark.parametrize("seconds", [3, 18])
async def test_a_stopped_process_goes_on(set_scene: SetScene, who: str, seconds: int) -> None:
    """Shorter than liveness notices, and longer; always shorter than the deadline of resumption."""
    async with set_scene() as scene:
        program = {
            "relay": scene.deployment.programs[0],
            "connector": scene.connector,
            "forward": scene.forward.program,
        }[who]
        program.process.send_signal(signal.SIGSTOP)
        try:
            # The length of the stop is what is tried here.
            await trio.sleep(seconds)
        finally:
            program.process.send_signal(signal.SIGCONT)
        with scene.timed(f"{who} stopped for {seconds} s: all streams go on"):
            await scene.everybody_talks()
