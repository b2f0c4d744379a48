"""Reports about a relay to which a command leads: they speak of the command, and not of ports and firewalls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from hybridrelay.abc import Dialer, Purpose
from hybridrelay.connectivity import NoRouteWorks, Prober, RelayEndpoint
from hybridrelay.connectivity.channel import open_channel
from hybridrelay.connectivity.discovery import Candidate
from hybridrelay.errors import RelayUnreachable
from hybridrelay.failure import FailureKind
from hybridrelay_exec import transport

ENDPOINT = RelayEndpoint("relay.example.com")


async def tcp(host: str, port: int) -> trio.abc.Stream:
    raise AssertionError("nothing but a command is used")


async def missing() -> trio.abc.HalfCloseableStream:
    raise FileNotFoundError(2, "No such file or directory", "nosuch")


async def not_executable() -> trio.abc.HalfCloseableStream:
    raise PermissionError(13, "Permission denied", "./notes")


async def ended() -> trio.abc.HalfCloseableStream:
    near, far = trio.testing.memory_stream_pair()
    await far.aclose()
    return near


async def silent() -> trio.abc.HalfCloseableStream:
    near, _ = trio.testing.memory_stream_pair()
    return near


CASES = pytest.mark.parametrize(
    ("process", "kind", "text", "remedy"),
    [
        (missing, "command-failed", "cannot be started: No such file or directory (nosuch)", "check --exec-command"),
        (not_executable, "command-failed", "cannot be started: Permission denied (./notes)", "check --exec-command"),
        (ended, "closed-early", "the command ended before the relay answered", "relay-stdio"),
        (silent, "stalled", "the command was started, and then nothing came back", "relay-stdio"),
    ],
)


@CASES
async def test_why_a_command_does_not_lead_to_the_relay(
    autojump_clock: trio.testing.MockClock,
    process: Callable[[], Awaitable[trio.abc.HalfCloseableStream]],
    kind: str,
    text: str,
    remedy: str,
) -> None:
    prober = Prober(ENDPOINT, mode="exec", transports={"exec": transport}, dialer=Dialer(tcp, process=process))
    report = await prober.survey()
    (attempt,) = report.attempts
    assert attempt.as_dict()["reason"] == kind
    assert attempt.as_dict()["port"] is None
    assert text in report.summary()
    assert remedy in report.as_table()
    assert "relay.example.com (command)" in report.as_table()
    for wrong in ("port None", "(off)", "firewall", "Errno"):
        assert wrong not in report.as_table()
    with pytest.raises(NoRouteWorks, match=r"the relay relay\.example\.com cannot be reached: the command "):
        await prober.choose()


@CASES
async def test_a_channel_says_the_same(
    autojump_clock: trio.testing.MockClock,
    process: Callable[[], Awaitable[trio.abc.HalfCloseableStream]],
    kind: str,
    text: str,
    remedy: str,
) -> None:
    candidate = Candidate(transport.routes[0], transport)
    with pytest.raises(RelayUnreachable) as caught:
        await open_channel(ENDPOINT, candidate, Purpose.CONTROL, dialer=Dialer(tcp, process=process))
    assert caught.value.failure is not None
    assert caught.value.failure.kind is FailureKind(kind)
    assert text in str(caught.value)
    assert remedy in (caught.value.remedy or "")
    assert "firewall" not in (caught.value.remedy or "")
