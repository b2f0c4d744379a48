"""The status of a connector or forward as text."""

from __future__ import annotations

import attrs

from hybridrelay.cli.endpoint_text import endpoint_text
from hybridrelay.connectivity.snapshot import EndpointSnapshot, RouteSnapshot, StreamState
from hybridrelay.monitoring.problems import endpoint_problems
from hybridrelay.monitoring.values import Role, StatusValue
from hybridrelay.protocol.control_states import TargetHealth

from ..monitoring.snapshots import connection, endpoint, failed, relay, session, stream

NOW = 100.0


def text(snapshot: EndpointSnapshot, role: Role = "connector", *, limit: int = 100, stopping: bool = False) -> str:
    problems = endpoint_problems(snapshot, role=role, stopping=stopping)
    status = StatusValue.of(
        snapshot, role=role, version="1.2.3", started_at=40.0, stopping=stopping, limit=limit, problems=problems
    )
    return endpoint_text(status, NOW)


def cells(shown: str, title: str) -> list[list[str]]:
    """The rows of a table, by their columns' texts."""
    (table,) = (part for part in shown.split("\n\n") if part.startswith(title))
    return [line.split() for line in table.splitlines()]


def test_the_status_of_a_connector_has_relays_sessions_and_streams() -> None:
    proxied = RouteSnapshot(name="wss", transport="websocket", port=443, proxy="http://proxy:3128")
    shown = text(
        endpoint(
            connection("db", relay("a"), failed("b"), target="db.internal:5432", target_health=TargetHealth.HEALTHY),
            sessions=(session(60, resumptions=2, bytes_to_target=12_300_000, route=proxied),),
            streams=(stream(40, state=StreamState.HALF_CLOSED, bytes_to_client=999),),
        )
    )
    head, problem, *_ = shown.split("\n\n")
    assert head == "connector running for 1 min 0 s, version 1.2.3"
    assert problem == (
        "! db is not registered at b: connection refused\n    what to do: check that the relay runs"
    ), "problems come first"
    assert cells(shown, "hybrid connections")[1:] == [
        ["NAME", "TARGET", "HEALTH", "SESSIONS", "STREAMS", "WAITING"],
        ["db", "db.internal:5432", "healthy", "1", "2", "0"],
    ]
    assert cells(shown, "relays")[2:] == [
        ["db", "a", "registered", "1", "min", "35", "s", "tcp", "9352"],
        ["db", "b", "failed", "-", "-", "relay-unreachable", "1", "min", "39", "s", "ago"],
    ]
    (row,) = cells(shown, "sessions: 1")[2:]
    assert " ".join(row) == (
        f"db {60:016x} shop open a.example wss 443 via http://proxy:3128 40 s 2 1 12.3 MB 7 B 0 B 0 B 0 B"
    )
    (row,) = cells(shown, "streams: 1")[2:]
    assert " ".join(row) == f"db {1:016x}-40 shop db.internal:5432 half-closed 1 min 0 s 0 B 999 B"


def test_the_status_of_a_forward_has_ports_and_waiting_streams() -> None:
    waiting = stream(
        90, id="", session="", label="", target="", application="127.0.0.1:4000", state=StreamState.WAITING
    )
    shown = text(
        endpoint(connection("db", listening=("127.0.0.1:5432",), waiting=1), sessions=(), streams=(waiting,)),
        "forward",
        stopping=True,
    )
    assert shown.startswith("forward stopping, version 1.2.3\n\n! the program is stopping")
    assert ["db", "127.0.0.1:5432", "1", "2", "1"] in cells(shown, "hybrid connections")
    assert "sessions: 0\n\n" in shown
    (row,) = cells(shown, "streams: 1")[2:]
    assert " ".join(row) == "db - 127.0.0.1:4000 waiting 10 s 0 B 0 B"


def test_lists_that_are_cut_say_so() -> None:
    snapshot = attrs.evolve(endpoint(streams=tuple(map(stream, range(5)))), stream_count=6000)
    assert "streams: 6000, of which the oldest 2 are shown\n" in text(snapshot, limit=2)
