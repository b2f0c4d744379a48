"""The client of the management API: what it makes of refusals, of a relay that stops, and of another version."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import msgspec
import pytest
import trio
import trio.testing

from hybridrelay.errors import ConfigurationError, HybridRelayError, ManagementError, OutcomeUnknown
from hybridrelay.management import LocalAddress, ManagementClient
from hybridrelay.management.refusals import refusal_of
from hybridrelay.relay.store.store import ChangedMeanwhile, NameTaken, NotFound
from hybridrelay.security import Secret

from ..full_queue import full_queue
from .conftest import Api


class Value(msgspec.Struct):
    """What the scripted relay answers with."""

    number: int


def answer(status: int = 200, body: object = None, *, more: str = "", close: bool = False) -> bytes:
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = "close" if close else "keep-alive"
    head = f"HTTP/1.1 {status} Something\r\nContent-Length: {len(data)}\r\nConnection: {connection}\r\n{more}\r\n"
    return head.encode() + data


@attrs.define
class Relay:
    """A relay in memory that answers as it is told. One list for each connection; None: the connection ends."""

    nursery: trio.Nursery
    scripts: list[Sequence[bytes | None]]
    host: str = "relay.example.com"
    prefix: str = "/prefix"
    authorization: Secret | None = attrs.field(factory=lambda: Secret("Bearer secret"))
    requests: list[bytes] = attrs.field(factory=list)

    async def connect(self) -> trio.abc.Stream:
        """See `Address`."""
        if not self.scripts:
            raise ManagementError("no relay runs")
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self._serve, theirs, self.scripts.pop(0))
        return ours

    async def _serve(self, stream: trio.abc.Stream, script: Sequence[bytes | None]) -> None:
        async with stream:
            for number, part in enumerate(script):
                if part is None:
                    if number == 0:
                        await stream.receive_some()
                    return
                self.requests.append(bytes(await stream.receive_some()))
                await stream.send_all(part)
            await trio.sleep_forever()


@pytest.fixture
async def relay(nursery: trio.Nursery) -> Callable[..., Relay]:
    return lambda *scripts: Relay(nursery, list(scripts))


Scripted = Callable[..., Relay]


async def test_a_connection_is_used_again_and_carries_the_token(relay: Scripted) -> None:
    there = relay([answer(body={"number": 1}), answer(body={"number": 2})])
    client = ManagementClient(there)
    assert [(await client.get("/v1/x", Value, query={"a": 1, "b": None})).number for _ in range(2)] == [1, 2]
    for request in there.requests:
        head = request.decode()
        assert head.startswith("GET /prefix/v1/x?a=1 HTTP/1.1\r\n")
        assert "Host: relay.example.com\r\n" in head
        assert "Authorization: Bearer secret\r\n" in head
    await client.aclose()


def too_soon(retry_after: str) -> bytes:
    return answer(429, {"detail": "too many requests"}, more=f"Retry-After: {retry_after}\r\n")


async def test_a_request_that_came_too_soon_is_repeated(
    relay: Scripted, autojump_clock: trio.testing.MockClock
) -> None:
    """This includes changes: the relay says that it has done nothing."""
    there = relay([too_soon("1")], [too_soon("2")], [answer(body={"number": 1})])
    client = ManagementClient(there)
    assert (await client.call("PUT", "/v1/x", Value, body={"a": 1})).number == 1
    assert trio.current_time() == pytest.approx(3)
    assert len(set(there.requests)) == 1
    await client.aclose()


@pytest.mark.parametrize("retry_after", ["3", "12", "x", "1.5", "-1", ""])
async def test_a_long_pause_is_left_to_the_user(relay: Scripted, retry_after: str) -> None:
    with pytest.raises(HybridRelayError, match="too many requests"):
        await ManagementClient(relay([too_soon(retry_after)])).call("PUT", "/v1/x", Value)


async def test_a_request_is_not_repeated_for_ever(relay: Scripted, autojump_clock: trio.testing.MockClock) -> None:
    there = relay(*([too_soon("1")] for _ in range(20)))
    with pytest.raises(HybridRelayError, match="too many requests"):
        await ManagementClient(there).call("PUT", "/v1/x", Value)
    assert len(there.requests) == 11


async def test_fields_of_a_later_version_are_ignored(relay: Scripted) -> None:
    client = ManagementClient(relay([answer(body={"later": [1], "number": 3})]))
    assert (await client.get("/v1/x", Value)).number == 3


async def test_an_answer_of_another_kind(relay: Scripted) -> None:
    for body in ({"number": "one"}, b"<html>", b"\xff"):
        with pytest.raises(ManagementError, match="not what this version expects") as caught:
            await ManagementClient(relay([answer(body=body)])).get("/v1/x", Value)
        assert "same version" in str(caught.value.remedy)
        assert not isinstance(caught.value, OutcomeUnknown)


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize("body", [{"number": "one"}, {"other": 1}, b"<html>", b"\xff", b"[" * 200])
async def test_a_change_whose_answer_cannot_be_read_may_have_been_made(
    relay: Scripted, monkeypatch: pytest.MonkeyPatch, status: int, body: object
) -> None:
    """Whoever reads that it was not made would remove what belongs to it, such as the only copy of a new key."""
    monkeypatch.setattr("hybridrelay.management.client._MAX_RESPONSE", 100)
    for method in ("PUT", "POST", "PATCH", "DELETE"):
        with pytest.raises(OutcomeUnknown, match="may have been made") as caught:
            await ManagementClient(relay([answer(status, body)])).call(method, "/v1/x", Value)
        assert "check whether the change was made" in str(caught.value.remedy)
    with pytest.raises(ManagementError) as safe:
        await ManagementClient(relay([answer(status, body)])).call("POST", "/v1/x/listKeys", Value, changes=False)
    assert not isinstance(safe.value, OutcomeUnknown)


async def test_a_connection_that_the_relay_has_closed_meanwhile(relay: Scripted) -> None:
    """Reading is repeated over a new connection; a change gets a new one from the beginning."""
    there = relay([answer(body={"number": 1}), None], [answer(body={"number": 2})], [answer(body={"number": 3})])
    client = ManagementClient(there)
    assert [(await client.get("/v1/x", Value)).number for _ in range(2)] == [1, 2]
    assert (await client.call("PUT", "/v1/x", Value, body={"a": 1})).number == 3
    assert there.requests[-1].endswith(b'{"a":1}')
    await client.aclose()


@pytest.mark.parametrize(
    "script", [[None], [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", None], [b"garbage\r\n\r\n"]]
)
async def test_a_relay_that_stops_in_the_middle(relay: Scripted, script: list[bytes | None]) -> None:
    with pytest.raises(ManagementError, match="the connection was lost") as reading:
        await ManagementClient(relay(script)).get("/v1/x", Value)
    assert not isinstance(reading.value, OutcomeUnknown)
    for method in ("PUT", "POST", "PATCH", "DELETE"):
        with pytest.raises(OutcomeUnknown, match="may have been made"):
            await ManagementClient(relay(script)).call(method, "/v1/x", Value)
    with pytest.raises(ManagementError) as safe:
        await ManagementClient(relay(script)).call("POST", "/v1/x/listKeys", Value, changes=False)
    assert not isinstance(safe.value, OutcomeUnknown)


async def test_a_relay_that_never_answers(relay: Scripted, autojump_clock: trio.testing.MockClock) -> None:
    client = ManagementClient(relay([b""], [b""], [b""]))
    with pytest.raises(ManagementError, match="did not answer in time"):
        await client.get("/v1/x", Value)
    assert trio.current_time() == pytest.approx(30)
    with pytest.raises(OutcomeUnknown, match="did not answer in time"):
        await client.call("DELETE", "/v1/x", Value)
    with pytest.raises(ManagementError, match="did not answer in time"):
        await client.get("/v1/events", Value, seconds=25)
    assert trio.current_time() == pytest.approx(115)


async def test_an_address_that_cannot_be_reached(autojump_clock: trio.testing.MockClock) -> None:
    class Silent(Relay):
        async def connect(self) -> trio.abc.Stream:
            await trio.sleep_forever()
            raise AssertionError

    async with trio.open_nursery() as nursery:
        with pytest.raises(ManagementError, match="cannot be reached within 15 s"):
            await ManagementClient(Silent(nursery, [])).call("PUT", "/v1/x", Value)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems answer in other ways")
async def test_a_relay_that_hangs_on_this_machine(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    address = LocalAddress(tmp_path)
    with full_queue(address.socket):
        with pytest.raises(ManagementError, match="cannot be reached within 15 s"):
            await ManagementClient(address).connect_if_it_runs()
        with pytest.raises(ManagementError, match="cannot be reached within 15 s"):
            await ManagementClient(address).get("/v1/x", Value)
    assert trio.current_time() == pytest.approx(30)


async def test_an_endless_answer_is_not_read_to_its_end(relay: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridrelay.management.client._MAX_RESPONSE", 100)
    with pytest.raises(ManagementError, match="more than 100 bytes"):
        await ManagementClient(relay([answer(body=b"[" * 200)])).get("/v1/x", Value)


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (400, "invalid", ConfigurationError),
        (403, "forbidden", ConfigurationError),
        (404, "not-found", NotFound),
        (409, "exists", NameTaken),
        (409, "changed", ChangedMeanwhile),
        (412, "precondition-failed", ChangedMeanwhile),
        (429, "rate", ManagementError),
        (503, "unavailable", ManagementError),
        (500, "internal", OutcomeUnknown),
        (418, "of-a-later-version", ConfigurationError),
        (599, "of-a-later-version", OutcomeUnknown),
    ],
)
def test_a_refusal_of_the_api_becomes_an_exception(status: int, kind: str, expected: type[HybridRelayError]) -> None:
    document = {"type": f"urn:hybridrelay:problem:{kind}", "detail": "why", "remedy": "what to do", "later": 1}
    exc = refusal_of("PUT", "/v1/x", status, {}, json.dumps(document).encode(), changes=True)
    assert type(exc) is expected
    assert "why" in str(exc)
    assert exc.remedy == "what to do"


def test_refusals_that_say_when_to_try_again() -> None:
    body = json.dumps({"type": "urn:hybridrelay:problem:rate", "detail": "too many"}).encode()
    assert (
        refusal_of("GET", "/", 429, {"retry-after": "7"}, body, changes=False).remedy
        == "run the command again in 7 s"
    )
    for when in ({}, {"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}):
        assert refusal_of("GET", "/", 429, when, body, changes=False).remedy == "try again later"


def test_a_token_that_is_not_accepted() -> None:
    body = json.dumps({"type": "urn:hybridrelay:problem:unauthenticated", "detail": "x"}).encode()
    exc = refusal_of("GET", "/", 401, {}, body, changes=False)
    assert isinstance(exc, ConfigurationError)
    assert "tokens create" in str(exc.remedy)


def test_an_operation_that_the_relay_does_not_have() -> None:
    body = json.dumps({"type": "urn:hybridrelay:problem:no-operation", "detail": "x"}).encode()
    exc = refusal_of("PATCH", "/v1/x?y=1", 404, {}, body, changes=True)
    assert "does not know PATCH /v1/x: it runs a different version" in str(exc)


def test_answers_of_something_else() -> None:
    for status in (301, 404, 503):
        exc = refusal_of("PUT", "/v1/x", status, {}, b"<html>", changes=True)
        assert "not from the management API of a relay" in str(exc)
        assert not isinstance(exc, OutcomeUnknown)
    for status in (500, 502, 504):
        assert isinstance(refusal_of("PUT", "/v1/x", status, {}, b"<html>", changes=True), OutcomeUnknown)
        assert not isinstance(refusal_of("GET", "/v1/x", status, {}, b"<html>", changes=False), OutcomeUnknown)


async def test_paths_that_the_real_api_does_not_serve(api: Api) -> None:
    """The types that the client relies on."""
    for method, path, kind in (
        ("GET", "/v1/nothing", "no-operation"),
        ("POST", "/v1/hybridConnections/orders", "method-not-allowed"),
        ("GET", "/v1/hybridConnections/orders", "not-found"),
        ("GET", f"/{'x' * 20_000}", "too-large"),
    ):
        found, problem = await api.call(method, path)
        assert problem["type"] == f"urn:hybridrelay:problem:{kind}", found.status


async def test_no_relay_on_this_machine(tmp_path: Path) -> None:

    client = ManagementClient(LocalAddress(tmp_path))
    assert not await client.connect_if_it_runs()
    with pytest.raises(ManagementError, match="no relay is running with the state directory"):
        await client.get("/v1/relay", Value)
