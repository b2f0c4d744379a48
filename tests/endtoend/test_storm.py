"""Everybody comes back at the same time to a relay that was restarted, while others talk through it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

import pytest
import trio

from hybridrelay.connectivity import RelayEndpoint, discover
from hybridrelay.connectivity.backoff import Backoff
from hybridrelay.connectivity.instance import new_instance
from hybridrelay.connectivity.link import RelayLink, make_connection_token
from hybridrelay.errors import RelayUnreachable, StreamRefused
from hybridrelay.protocol import Reason, control
from hybridrelay.security import load_connection_string

from ..deployments import Deployment
from ..leaks import of_program, settled
from .talking import SHORT_PAUSE_SECONDS, Talker
from .targets import echo, serve

#: Fewer than the relay's slots where every change is tested; the soak session asks for twice as many as those.
CLIENTS = int(os.environ.get("HYBRIDRELAY_STORM", "200"))
STORM_SECONDS = 240 + CLIENTS // 5
#: All clients share one processor here. With more of them at a time in two layers of TLS, they miss deadlines,
#: and it is not the relay that is tried.
AT_ONCE = {"tcp": CLIENTS, "websocket": 500}


@pytest.mark.timeout(STORM_SECONDS + 60)
async def test_a_storm_after_a_restart(
    deployment: Deployment, nursery: trio.Nursery, mode: str, remark: Callable[[str], None]
) -> None:
    """Every client gets an answer in the end, open streams go on meanwhile, and nothing is left behind."""
    published = deployment.create("storm", await serve(nursery, echo))
    deployment.start_connector(published, arguments=["--mode", mode])
    forward = deployment.start_forward(published, mode=mode)
    talker = Talker(forward.port, SHORT_PAUSE_SECONDS)
    string = load_connection_string(published.application)
    (endpoint,) = RelayEndpoint.all_from(string)
    transports = discover()
    tries = 0

    def make_link() -> RelayLink:
        return RelayLink(endpoint, control.PeerRole.CLIENT, instance=new_instance(), mode=mode, transports=transports)

    route = await make_link().choose()

    async def join(link: RelayLink) -> control.Message:
        """Ask for an instance that does not exist: an answer of the relay's alone."""
        async with trio.open_nursery() as channels:
            channel = await link.start_control(channels)
            token = make_connection_token(string, endpoint.host, time.time())
            request = control.Join(channel.next_id(), string.entity_path, token, new_instance().id)
            answer = await channel.join(request)
            channels.cancel_scope.cancel()
        return answer

    at_once = trio.CapacityLimiter(AT_ONCE[mode])

    async def client() -> None:
        nonlocal tries
        link = make_link()
        backoff = Backoff()
        answer: control.Message | None = None
        while answer is None:
            tries += 1
            tried_at = trio.current_time()
            # Known since before the restart: probing is tried elsewhere.
            link._candidate = route
            try:
                async with at_once:
                    answer = await join(link)
            except* (RelayUnreachable, StreamRefused):
                pass  # not there yet, or it had to give way
            if answer is None:
                await trio.sleep(backoff.next_wait(took_seconds=trio.current_time() - tried_at))
        assert isinstance(answer, control.Failed), answer
        assert answer.reason is Reason.LISTENER_ABSENT

    async with trio.open_nursery() as talking:
        talking.start_soon(talker.run)
        await talker.more_than(0)
        await talker.sends()
        deployment.programs[0].kill()
        began = trio.current_time()
        with trio.fail_after(STORM_SECONDS):
            async with trio.open_nursery() as storm:
                for _ in range(CLIENTS):
                    storm.start_soon(client)
                relay = await trio.to_thread.run_sync(deployment.start_relay)
                before = talker.received
                # The first answer comes when the session is back, in the middle of it.
                storm.start_soon(talker.more_than, before)
        seconds = trio.current_time() - began
        remark(f"{mode}: {CLIENTS} clients at once, {tries} tries, all answered after {seconds:.1f} s")
        await talker.more_than(talker.received)
        talker.stop()
    held = await settled(partial(of_program, relay))
    names = ("peers", "control_sessions", "joined_pairs", "unauthenticated")
    # A worker may have kept the data channel; then the client needs no control channel.
    assert [held.get(name, 0) for name in names] in ([2, 2, 1, 0], [1, 1, 1, 0]), held
    nursery.cancel_scope.cancel()
