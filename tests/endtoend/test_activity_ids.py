"""One connection of an application is followed through the logs of relay, connector and client."""

from __future__ import annotations

import json
import re
from typing import Any

import trio

from ..deployments import Deployment, Program
from .targets import echo, exchange, serve

Line = dict[str, Any]


def lines(program: Program) -> list[Line]:
    """What a program has logged."""
    return [json.loads(line) for line in program.lines["err"]]


def of(found: list[Line], event: str) -> list[Line]:
    return [line for line in found if line.get("event") == event]


async def test_from_the_rendezvous_to_the_stream_and_back(deployment: Deployment, nursery: trio.Nursery) -> None:
    deployment.programs[0].terminate()
    published = deployment.create("orders", await serve(nursery, echo))
    logs = ("--log-json", "--log-level", "debug")
    relay = deployment.start_relay(*logs)
    connector = deployment.start_connector(published, arguments=logs)
    forward = deployment.start_forward(published, arguments=logs)
    for message in (b"one", b"two"):
        assert await exchange(forward.port, message) == message
    client = forward.program
    for program in (client, connector):
        await program.logs('"event": "stream.closed".*-3"')
        program.terminate()
    relay.terminate()

    (ended,) = of(lines(relay), "rendezvous.ended")
    rendezvous = ended["activityId"]
    assert re.fullmatch(r"[0-9a-f]{32}", rendezvous)
    sessions = set()
    for program in (connector, client):
        (opened,) = of(lines(program), "session.opened")
        assert opened["fields"]["rendezvous"] == rendezvous
        sessions.add(opened["activityId"])
    (session,) = sessions
    assert [line["activityId"] for line in of(lines(connector), "stream.closed")] == [f"{session}-1", f"{session}-3"]
    audit = [line["fields"] for line in lines(connector) if line["logger"] == "hybridrelay.audit"]
    for number in (1, 3):  # the first one may still be open when the second one is opened
        assert [line["event"] for line in audit if line["id"] == f"{session}-{number}"] == ["open", "closed"]
    assert len(audit) == 4
    at_client = of(lines(client), "stream.closed")
    assert [line["fields"]["stream_id"] for line in at_client] == [f"{session}-1", f"{session}-3"]
    requested = [line["activityId"] for line in of(lines(client), "stream.requested")]
    assert requested == [line["activityId"] for line in at_client]
    nursery.cancel_scope.cancel()


async def test_a_session_that_has_resumed_has_the_same_id_and_another_rendezvous(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    published = deployment.create("orders", await serve(nursery, echo))
    connector = deployment.start_connector(published, arguments=["--log-json"])
    # Over native TCP, a worker would keep the pair.
    forward = deployment.start_forward(published, mode="websocket", arguments=["--log-json"])
    first = (await forward.program.logs('"event": "session.opened"')).string
    deployment.programs[0].terminate()
    deployment.start_relay()
    resumed = [await program.logs('"event": "session.resumed"') for program in (connector, forward.program)]
    before, found = json.loads(first), [json.loads(line.string) for line in resumed]
    assert {line["activityId"] for line in found} == {before["activityId"]}
    (after,) = {line["fields"]["rendezvous"] for line in found}
    assert after != before["fields"]["rendezvous"]
    nursery.cancel_scope.cancel()
