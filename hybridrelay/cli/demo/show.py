"""The steps and the output of the demo."""

from __future__ import annotations

import os
import re
import statistics
import sys
from pathlib import Path

import attrs
import trio

from ... import __version__
from ..._nursery import FlatNursery
from ...administration.new_files import new_files
from ...client import Client, ClientConfig, open_client, run_forward
from ...connectivity import Prober, RelayEndpoint
from ...mux import MuxStream
from .. import async_output, output
from . import http
from .stage import HOST, NAME, Stage, open_stage

#: How long each direction of each transport is measured (seconds).
MEASURE_SECONDS = 2.0
#: The number of requests whose median is the latency.
REQUESTS = 50
_PROGRESS_SECONDS = 0.1
_MODES = (("tcp", "native TCP"), ("websocket", "WebSocket"))


@attrs.frozen
class Result:
    """The measurements for one transport: times in milliseconds, speeds in bytes per second."""

    title: str
    route: str
    connect: float
    request: float
    down: float
    up: float


class Show:
    """Runs the demo in a directory, which the caller removes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._palette = output.Palette(sys.stdout)
        #: Whether a line can be overwritten, to show progress.
        self._live = sys.stdout.isatty()
        self._next_progress = 0.0
        #: Whether the ready line was printed, which happens only with `--keep`.
        self.is_ready = False

    async def play(self, *, keep: bool) -> None:
        """Run the demo once; with `keep`, keep it running until cancelled.

        Raises:
            HybridRelayError: something does not work on this machine; the message says what.
        """
        state_dir = self._directory / "state"
        async with open_stage(state_dir) as stage:
            await self._introduce(stage)
            await self._probe(stage)
            results = [await self._try(stage, mode, title) for mode, title in _MODES]
            await self._summarize(results)
            if keep:
                await self._stay(stage, state_dir)
        await async_output.say()
        await async_output.say(
            "All of this ran on one machine. 'hybridrelay --help' shows how to set it up on three."
        )

    async def _heading(self, text: str) -> None:
        await async_output.say()
        await async_output.say(self._palette.bold(text))

    async def _introduce(self, stage: Stage) -> None:
        await async_output.say(self._palette.bold(f"hybridrelay {__version__}: the demo"))
        await async_output.say("All three roles in one process, on free ports of this machine:")
        ports = ", ".join(f"{name} {bound[0].port}" for name, bound in stage.relay.bound.items())
        rows = [
            ("target", f"a sample HTTP server 'in the private network', at {stage.target}"),
            ("connector", f"serves it as the hybrid connection '{NAME}'; dials out only"),
            ("relay", f"joins both sides and cannot read their data; ports {ports}"),
            ("client", "connects next"),
        ]
        for role, text in rows:
            await async_output.say(f"  {role:9}  {text}")

    async def _probe(self, stage: Stage) -> None:
        await self._heading("What the prober finds: which routes to the relay work?")
        (relay,) = RelayEndpoint.all_from(stage.application)
        report = await Prober(relay).survey()
        table = re.sub(r"\bPASS\b", self._palette.green("PASS"), report.as_table())
        await async_output.say(re.sub(r"\bFAIL\b", self._palette.red("FAIL"), table))

    async def _try(self, stage: Stage, mode: str, title: str) -> Result:
        async with open_client(ClientConfig(stage.application, mode=mode)) as client:
            began = trio.current_time()
            await client.connect()
            connect = _milliseconds(began)
            route = client.route or "none"
            await self._heading(f"Over {title} (route {route})")
            await async_output.say(f"  connected to the connector, encrypted end to end, in {connect:.1f} ms")
            await self._request_and_print(client)
            times = [await _timed_request(client) for _ in range(REQUESTS)]
            request = statistics.median(times)
            await async_output.say(f"  {REQUESTS} more, each on its own connection: {request:.2f} ms (median)")
            async with await client.open_stream() as stream:
                down = await self._measure("down", stream)
            async with await client.open_stream() as stream:
                up = await self._measure("up", stream)
        return Result(title, route, connect, request, down, up)

    async def _request_and_print(self, client: Client) -> None:
        began = trio.current_time()
        async with await client.open_stream() as stream:
            answer = await http.request(stream, "/")
        status = self._palette.green(f"{answer.status} {answer.reason}")
        await async_output.say(f"  GET / -> {status} in {_milliseconds(began):.1f} ms")
        await async_output.say(f'    "{answer.body.decode().strip()}"')

    async def _measure(self, direction: str, stream: MuxStream) -> float:
        def progress(seconds: float, count: int) -> None:
            if not self._live or trio.current_time() < self._next_progress:
                return
            self._next_progress = trio.current_time() + _PROGRESS_SECONDS
            speed = count / max(seconds, 0.001)
            async_output.maybe_say(f"\r  {direction:4}  {_mega(speed):>7} MB/s  {seconds:.1f} s", end="")

        measure = http.measure_down if direction == "down" else http.measure_up
        speed = await measure(stream, MEASURE_SECONDS, progress)
        if self._live:
            await async_output.draw("\r")
        await async_output.say(f"  {direction:4}  {_mega(speed):>7} MB/s{' ' * 8 if self._live else ''}")
        return speed

    async def _summarize(self, results: list[Result]) -> None:
        await self._heading("Summary")
        rows = [
            (
                result.title,
                result.route,
                f"{result.connect:.1f} ms",
                f"{result.request:.2f} ms",
                f"{_mega(result.down)} MB/s",
                f"{_mega(result.up)} MB/s",
            )
            for result in results
        ]
        header = ("TRANSPORT", "ROUTE", "CONNECT", "REQUEST", "DOWN", "UP")
        await async_output.say(output.table(header, rows, right=frozenset({2, 3, 4, 5})))
        await async_output.say(
            self._palette.dim("(all roles share one process and one processor core; separate processes are faster)")
        )

    async def _stay(self, stage: Stage, state_dir: Path) -> None:
        string_file = self._directory / "demo.application"
        with new_files({string_file: stage.application.format() + "\n"}):
            pass
        async with open_client(stage.application) as client, FlatNursery() as nursery:
            ((_, port),) = await nursery.start(run_forward, client, [(HOST, 0)])
            await async_output.say()
            await async_output.say_ready("demo", [(NAME, f"{HOST}:{port}")])
            self.is_ready = True
            await async_output.say("Try, in another terminal:")
            await async_output.say(f"  curl http://{HOST}:{port}/")
            await async_output.say(f"  curl -o {os.devnull} http://{HOST}:{port}/bytes")
            await async_output.say(f"  hybridrelay probe --connection-string-file {string_file}")
            await async_output.say(f"  hybridrelay connections list --state {state_dir}")
            await async_output.say("The dashboard; you can log in once with this link, within five minutes:")
            await async_output.say(f"  {stage.link_to_dashboard()}")
            await async_output.say("Ctrl-C ends it, and leaves nothing behind.")
            await trio.sleep_forever()


async def _timed_request(client: Client) -> float:
    began = trio.current_time()
    async with await client.open_stream() as stream:
        await http.request(stream, "/")
    return _milliseconds(began)


def _milliseconds(began: float) -> float:
    return (trio.current_time() - began) * 1000


def _mega(speed: float) -> str:
    return f"{speed / 1e6:.1f}"
