"""What the prober chooses and reports, for every way in which ports misbehave. In virtual time."""

from __future__ import annotations

import itertools
import json

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.abc import Dialer, Transport
from hybridrelay.connectivity import AUTO, NoRouteWorks, Prober, RelayEndpoint, Report
from hybridrelay.errors import ConfigurationError, RelayUnreachable
from hybridrelay.protocol.reasons import Reason

from .conftest import FakeNetwork

RIGHT = {9350: "right", 5671: "right", 9352: "right", 443: "right", 80: "right"}
NATIVE = (9350, 5671, 9352)


def make_prober(
    network: FakeNetwork, transports: dict[str, Transport], *, endpoint: RelayEndpoint | None = None, mode: str = AUTO
) -> Prober:
    return Prober(endpoint or network.endpoint, transports=transports, dialer=Dialer(network.dial), mode=mode)


def rows(report: Report) -> list[str]:
    return [
        f"{attempt.route} {attempt.step} {attempt.outcome}" + (f" {attempt.failure.kind}" if attempt.failure else "")
        for attempt in report.attempts
    ]


async def test_native_is_chosen_where_it_works(
    network: FakeNetwork, transports: dict[str, Transport], autojump_clock: trio.testing.MockClock
) -> None:
    network.behaviours = RIGHT
    decision = await make_prober(network, transports).choose()
    assert decision.candidate.route.name == decision.report.chosen == "tcp"
    assert decision.candidate.transport is transports["tcp"]
    assert rows(decision.report) == [
        "tcp probe PASS",
        "tcp control PASS",
        "tcp data PASS",
        "wss probe SKIP",
        "ws probe SKIP",
    ]
    # Nothing else was even tried.
    assert sorted(port for port, _ in network.dialed) == sorted(NATIVE)
    await network.assert_all_closed()


# How each misbehaviour of a native port is reported, by port.
REPORTED = {
    "refused": "refused",
    "unreachable": "unreachable",
    "dropped": "dropped",
    "stalled": "stalled",
    "closed": "closed-early",
    "truncated": "closed-early",
    "garbage": "not-a-relay",
    "http": "not-a-relay",
    "newer": "version-mismatch",
    "wrong-port": "refused-by-relay",
}
BAD = [
    *itertools.product(NATIVE, REPORTED.items()),
    (9350, ("altered", "not-a-relay")),
    (9350, ("stalled-echo", "stalled")),
    (9350, ("busy", "refused-by-relay")),
    (5671, ("busy", "refused-by-relay")),
    (5671, ("altered", "tls-failed")),
    (5671, ("wrong-pin", "wrong-identity")),
    (5671, ("stalled-tls", "stalled")),
]


@pytest.mark.parametrize(("port", "bad"), BAD)
async def test_one_bad_native_port_is_enough_to_fall_back(
    port: int,
    bad: tuple[str, str],
    network: FakeNetwork,
    transports: dict[str, Transport],
    autojump_clock: trio.testing.MockClock,
) -> None:
    behaviour, kind = bad
    network.behaviours = {**RIGHT, port: behaviour}
    decision = await make_prober(network, transports).choose()
    assert decision.candidate.route.name == "wss"
    step = {9350: "probe", 5671: "control", 9352: "data"}[port]
    (attempt,) = [attempt for attempt in decision.report.attempts if attempt.port == port]
    if attempt.failure is None:
        # Silence is not waited for once something else works.
        assert behaviour in {"dropped", "stalled", "stalled-echo", "stalled-tls"}
        assert rows(decision.report)[NATIVE.index(port)] == f"tcp {step} SKIP"
        assert attempt.explanation == "stopped before it answered: not needed"
        assert attempt.seconds is not None
        assert attempt.seconds > 0
    else:
        assert attempt.failure.kind == kind
        assert attempt.explanation
    await network.assert_all_closed()

    with pytest.raises(NoRouteWorks) as caught:
        await make_prober(network, transports, mode="tcp").choose()
    (attempt,) = [attempt for attempt in caught.value.report.attempts if attempt.port == port]
    assert attempt.failure is not None
    assert attempt.failure.kind == kind
    assert attempt.explanation in str(caught.value)
    await network.assert_all_closed()


async def test_a_busy_data_port_works(
    network: FakeNetwork, transports: dict[str, Transport], autojump_clock: trio.testing.MockClock
) -> None:
    network.behaviours = {**RIGHT, 9352: "busy"}
    decision = await make_prober(network, transports).choose()
    assert decision.candidate.route.name == "tcp"


STATES = ["right", "refused", "dropped", "stalled"]


@pytest.mark.parametrize("mode", [AUTO, "tcp", "websocket"])
@pytest.mark.parametrize("states", list(itertools.product(STATES, repeat=3)))
async def test_the_best_route_that_works_is_chosen_whatever_the_others_do(
    states: tuple[str, str, str],
    mode: str,
    network: FakeNetwork,
    transports: dict[str, Transport],
    autojump_clock: trio.testing.MockClock,
) -> None:
    native, https, http = states
    network.behaviours = {**dict.fromkeys(NATIVE, native), 443: https, 80: http}
    usable = [route for route, state in zip(("tcp", "wss", "ws"), states, strict=True) if state == "right"]
    allowed = {AUTO: {"tcp", "wss", "ws"}, "tcp": {"tcp"}, "websocket": {"wss", "ws"}}[mode]
    expected = next((route for route in usable if route in allowed), None)
    prober = make_prober(network, transports, mode=mode)

    survey = await prober.survey()
    assert survey.chosen == expected
    assert all(str(attempt.outcome) in {"PASS", "FAIL"} for attempt in survey.attempts)

    if expected is None:
        with pytest.raises(NoRouteWorks) as caught:
            await prober.choose()
        report = caught.value.report
    else:
        report = (await prober.choose()).report
    assert report.chosen == expected
    assert {attempt.route for attempt in report.attempts} == allowed
    # Never tens of seconds: three routes of silence, each at most 250 ms after the other, and one step's deadline.
    assert report.seconds <= 0.5 + 3.0
    await network.assert_all_closed()


@pytest.mark.parametrize("silence", ["dropped", "stalled"])
@pytest.mark.parametrize("port", NATIVE)
async def test_silence_costs_a_stagger_and_a_grace(
    silence: str,
    port: int,
    network: FakeNetwork,
    transports: dict[str, Transport],
    autojump_clock: trio.testing.MockClock,
) -> None:
    network.behaviours = {**RIGHT, port: silence}
    report = (await make_prober(network, transports).choose()).report
    assert report.chosen == "wss"
    assert report.seconds == pytest.approx(0.25 + 0.3)


async def test_refusal_costs_nothing(
    network: FakeNetwork, transports: dict[str, Transport], autojump_clock: trio.testing.MockClock
) -> None:
    network.behaviours = {443: "right"}
    report = (await make_prober(network, transports).choose()).report
    assert report.chosen == "wss"
    assert report.seconds == 0
    assert rows(report)[:4] == [
        "tcp probe FAIL refused",
        "tcp control SKIP",
        "tcp data SKIP",
        "wss probe PASS",
    ]
    assert report.attempts[1].explanation == "not tried: the probe failed"
    assert report.attempts[4].explanation == "not needed"


async def test_rank_beats_speed_far_away(
    network: FakeNetwork, transports: dict[str, Transport], autojump_clock: trio.testing.MockClock
) -> None:
    # Six round trips of native against five of WebSocket, which starts a quarter of a second later.
    network.behaviours = RIGHT
    network.latencies = {**dict.fromkeys(NATIVE, 0.6), 443: 0.1, 80: 0.1}
    assert (await make_prober(network, transports).choose()).report.chosen == "wss"
    network.latencies = dict.fromkeys(RIGHT, 0.6)
    assert (await make_prober(network, transports).choose()).report.chosen == "tcp"


async def test_ports_that_are_off_are_skipped(
    network: FakeNetwork, transports: dict[str, Transport], autojump_clock: trio.testing.MockClock
) -> None:
    network.behaviours = RIGHT
    endpoint = attrs.evolve(network.endpoint, ports={"probe": None})
    report = (await make_prober(network, transports, endpoint=endpoint).choose()).report
    assert report.chosen == "wss"
    assert rows(report)[:3] == ["tcp probe SKIP", "tcp control SKIP", "tcp data SKIP"]
    assert report.attempts[0].explanation == "the relay does not serve port probe"
    assert not {port for port, _ in network.dialed} & set(NATIVE)

    with pytest.raises(NoRouteWorks, match="does not serve port probe"):
        await make_prober(network, transports, endpoint=endpoint, mode="tcp").choose()
    assert (await make_prober(network, transports, endpoint=endpoint, mode="tcp").survey()).chosen is None


async def test_ports_with_other_numbers(
    network: FakeNetwork, transports: dict[str, Transport], autojump_clock: trio.testing.MockClock
) -> None:
    network.behaviours = {1: "right", 2: "right", 3: "right"}
    endpoint = attrs.evolve(network.endpoint, ports={"probe": 1, "control": 2, "data": 3})
    report = (await make_prober(network, transports, endpoint=endpoint).choose()).report
    assert [attempt.port for attempt in report.attempts] == [1, 2, 3, 443, 80]
    assert report.chosen == "tcp"


async def test_an_unknown_mode_is_refused_at_once(network: FakeNetwork, transports: dict[str, Transport]) -> None:
    with pytest.raises(ConfigurationError, match="'quic'"):
        make_prober(network, transports, mode="quic")


async def test_no_route_works(
    network: FakeNetwork, transports: dict[str, Transport], autojump_clock: trio.testing.MockClock
) -> None:
    network.behaviours = {443: "http"}
    with pytest.raises(RelayUnreachable) as caught:
        await make_prober(network, transports).choose()
    text = str(caught.value)
    assert "tcp 9350, ws 80: connection refused" in text
    assert "wss 443: something other than a relay answered" in text
    assert "check that the relay is running" in (caught.value.remedy or "")


async def test_where_everything_fails_alike_it_is_said_once(
    network: FakeNetwork, transports: dict[str, Transport], autojump_clock: trio.testing.MockClock
) -> None:
    with pytest.raises(NoRouteWorks) as caught:
        await make_prober(network, transports).choose()
    assert str(caught.value) == (
        "the relay relay.example.com cannot be reached at the default ports 9350, 443, 80: connection refused"
    )
    assert "the connection string must name them ('connections create --public-ports'" in (caught.value.remedy or "")


async def test_ports_of_the_connection_string_are_named_as_well(
    network: FakeNetwork, transports: dict[str, Transport], autojump_clock: trio.testing.MockClock
) -> None:
    endpoint = RelayEndpoint("relay.example.com", {"https": 8443, "http": None, "probe": None}, ())
    with pytest.raises(NoRouteWorks) as caught:
        await make_prober(network, transports, endpoint=endpoint).choose()
    assert str(caught.value) == "the relay relay.example.com cannot be reached at port 8443: connection refused"


async def test_a_wrong_identity_is_what_the_operator_hears_first(
    network: FakeNetwork, transports: dict[str, Transport], autojump_clock: trio.testing.MockClock
) -> None:
    network.behaviours = {**dict.fromkeys(NATIVE, "right"), 5671: "wrong-pin"}
    with pytest.raises(NoRouteWorks) as caught:
        await make_prober(network, transports).choose()
    assert network.endpoint.pins[0] in str(caught.value)
    assert "pin" in (caught.value.remedy or "")
    assert caught.value.reason is Reason.WRONG_IDENTITY


async def test_a_survey_does_not_choose_a_route_that_leads_to_somebody_else(
    network: FakeNetwork, transports: dict[str, Transport], autojump_clock: trio.testing.MockClock
) -> None:
    """The probe alone proves nothing: the relay is asked over the route, and has to prove its identity."""
    network.behaviours = {443: "wrong-pin", 80: "right"}
    report = await make_prober(network, transports).survey()
    assert report.chosen == "ws"
    assert rows(report)[3:] == ["wss probe FAIL wrong-identity", "ws probe PASS"]
    network.behaviours = {443: "wrong-pin", 80: "wrong-pin"}
    report = await make_prober(network, transports).survey()
    assert report.chosen is None
    assert rows(report)[3:] == ["wss probe FAIL wrong-identity", "ws probe FAIL wrong-identity"]
    await network.assert_all_closed()


#: Firewalls that let the first bytes of a connection to the data port pass, and then look for TLS.
BEHIND_THE_STATUS = [("altered", "tls-failed"), ("stalled-tls", "stalled"), ("wrong-pin", "wrong-identity")]


@pytest.mark.parametrize(("behaviour", "kind"), BEHIND_THE_STATUS)
async def test_a_thorough_check_finds_a_data_port_that_does_not_carry_tls(
    behaviour: str,
    kind: str,
    network: FakeNetwork,
    transports: dict[str, Transport],
    autojump_clock: trio.testing.MockClock,
) -> None:
    network.behaviours = {**RIGHT, 9352: behaviour}
    prober = make_prober(network, transports)
    quick = (await prober.choose()).report
    assert quick.chosen == "tcp"
    thorough = await prober.choose(thorough=True)
    assert thorough.report.chosen == "wss"
    assert quick.failure_of("tcp") is None
    assert behaviour == "stalled-tls" or str(getattr(thorough.report.failure_of("tcp"), "kind", None)) == kind
    assert await prober.find_better(thorough.candidate) is None
    survey = await prober.survey()
    assert survey.chosen == "wss"
    assert rows(survey)[:3] == ["tcp probe PASS", "tcp control PASS", f"tcp data FAIL {kind}"]
    await network.assert_all_closed()


async def test_a_thorough_check_passes_where_everything_works(
    network: FakeNetwork, transports: dict[str, Transport], autojump_clock: trio.testing.MockClock
) -> None:
    network.behaviours = RIGHT
    prober = make_prober(network, transports)
    assert (await prober.choose(thorough=True)).report.chosen == "tcp"
    wss = (await make_prober(network, transports, mode="websocket").choose()).candidate
    better = await prober.find_better(wss)
    assert better is not None
    assert better.route.name == "tcp"
    await network.assert_all_closed()


async def test_a_relay_that_is_busy_may_have_a_data_port_that_works(
    network: FakeNetwork, transports: dict[str, Transport], autojump_clock: trio.testing.MockClock
) -> None:
    """It refuses further connections before TLS, so more cannot be known."""
    network.behaviours = {**RIGHT, 9352: "busy"}
    assert (await make_prober(network, transports).choose(thorough=True)).report.chosen == "tcp"


async def test_cancelled_nothing_stays_open(
    network: FakeNetwork, transports: dict[str, Transport], autojump_clock: trio.testing.MockClock
) -> None:
    network.behaviours = RIGHT
    network.latencies = dict.fromkeys(RIGHT, 0.05)
    for step in range(40):
        with trio.move_on_after(step * 0.01):
            await make_prober(network, transports).choose()
        with trio.move_on_after(step * 0.01):
            await make_prober(network, transports).choose(thorough=True)
        with trio.move_on_after(step * 0.01):
            await make_prober(network, transports).survey()
    await network.assert_all_closed()
    assert len(network.dialed) > 100


TABLE = """\
ROUTE  STEP     ADDRESS                 RESULT     TIME  REASON
tcp    probe    relay.example.com:9350  FAIL    2000 ms  no answer: the packets are dropped
tcp    control  relay.example.com:5671  PASS       0 ms
tcp    data     relay.example.com:9352  PASS       0 ms
wss    probe    relay.example.com:443   FAIL       0 ms  connection refused
ws     probe    relay.example.com:80    PASS       0 ms

Result: relay.example.com: use ws (mode auto, 2000 ms)
  relay.example.com:9350: ask the network administrator to allow outbound TCP to this host and port
  relay.example.com:443: check that the relay is running and listens on this port; if it has other ports, the \
connection string must name them ('connections create --public-ports', or 'connections endpoints --public-ports' \
with --update); if a firewall rejects the connection, ask the network administrator to allow outbound TCP to \
this host and port"""


async def test_report_for_people_and_for_programs(
    network: FakeNetwork, transports: dict[str, Transport], autojump_clock: trio.testing.MockClock
) -> None:
    network.behaviours = {**RIGHT, 9350: "dropped", 443: "refused"}
    report = await make_prober(network, transports).survey()
    assert report.as_table() == TABLE
    value = json.loads(report.as_json())
    assert (value["host"], value["mode"], value["chosen"], value["milliseconds"]) == (
        "relay.example.com",
        "auto",
        "ws",
        2000.0,
    )
    assert value["attempts"][0] == {
        "route": "tcp",
        "step": "probe",
        "host": "relay.example.com",
        "port": 9350,
        "outcome": "FAIL",
        "milliseconds": 2000.0,
        "reason": "dropped",
        "explanation": "no answer: the packets are dropped",
        "remedy": "ask the network administrator to allow outbound TCP to this host and port",
        "proxy": None,
        "intercepted_by": None,
        "reached": None,
        "failed_step": "dial",
    }
    assert value["attempts"][1]["reason"] is value["attempts"][1]["remedy"] is None


async def test_report_of_ports_that_are_off(
    network: FakeNetwork, transports: dict[str, Transport], autojump_clock: trio.testing.MockClock
) -> None:
    endpoint = RelayEndpoint("2001:db8::1", {"probe": None}, network.endpoint.pins)
    table = (await make_prober(network, transports, endpoint=endpoint).survey()).as_table()
    assert "[2001:db8::1]:443" in table
    assert table.count("the relay does not serve port probe") == 1
    assert "tcp    all    2001:db8::1        SKIP" in table


async def test_report_of_a_single_port_that_is_off(
    network: FakeNetwork, transports: dict[str, Transport], autojump_clock: trio.testing.MockClock
) -> None:
    endpoint = RelayEndpoint("2001:db8::1", {"https": None}, network.endpoint.pins)
    table = (await make_prober(network, transports, endpoint=endpoint).survey()).as_table()
    assert "2001:db8::1 (off)" in table


async def test_what_a_peer_says_cannot_forge_a_report(
    transports: dict[str, Transport], autojump_clock: trio.testing.MockClock
) -> None:
    async def dial(host: str, port: int) -> trio.abc.HalfCloseableStream:
        raise OSError("line\r\nResult: all is well\x1b[2J")

    report = await Prober(RelayEndpoint("relay.example.com"), transports=transports, dialer=Dialer(dial)).survey()
    assert [attempt.failure and attempt.failure.kind for attempt in report.attempts] == ["other"] * 5
    assert "line  Result: all is well [2J" in report.as_table()
    assert report.as_table().count("\nResult:") == 1
