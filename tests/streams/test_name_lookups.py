"""A name service that does not answer delays only those who need the names that it does not answer for."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hybridrelay._threads import OutOfThreads
from hybridrelay.connector.targets import TargetError, open_target
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import HostPort
from hybridrelay.streams.connecting import resolve_host
from hybridrelay.streams.name_lookups import (
    AGAIN_SECONDS,
    MAX_LOOKUPS,
    MAX_OF_NAME,
    MAX_OF_ZONE,
    NameLookups,
    Purpose,
    lookups_for,
)

from ..resolving import FixedResolver


class Resolver(FixedResolver):
    """Does not answer for names in dead.example, until it is told to."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1")
        self.works = trio.Event()
        #: How many lookups wait, by name.
        self.waiting: Counter[str] = Counter()

    async def getaddrinfo(self, host: bytes | None, *rest: Any, **more: Any) -> Any:
        name = (host or b"").decode().lower().rstrip(".")
        if name.endswith("dead.example"):
            self.waiting[name] += 1
            await self.works.wait()
            self.waiting[name] -= 1
        return await super().getaddrinfo(host, *rest, **more)


async def test_callers_share_one_lookup(autojump_clock: MockClock) -> None:
    trio.socket.set_custom_hostname_resolver(resolver := FixedResolver("127.0.0.1", "127.0.0.2"))
    found = []

    async def look_up() -> None:
        found.append([address[4][0] for address in await resolve_host("db.example", 1433)])

    async with trio.open_nursery() as nursery:
        for _ in range(1000):
            nursery.start_soon(look_up)
    assert found == 1000 * [["127.0.0.1", "127.0.0.2"]]
    assert len(resolver.asked) == 1
    # Nothing is remembered.
    await resolve_host("db.example", 1433)
    assert len(resolver.asked) == 2
    assert not lookups_for(Purpose.RELAY)._names


async def test_an_error_is_that_of_every_caller(autojump_clock: MockClock) -> None:
    trio.socket.set_custom_hostname_resolver(FixedResolver(error=socket.gaierror(socket.EAI_AGAIN, "later")))
    errors = []

    async def look_up() -> None:
        with pytest.raises(socket.gaierror) as failed:
            await resolve_host("db.example", 1433)
        errors.append(failed.value.errno)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(look_up)
    assert errors == 5 * [socket.EAI_AGAIN]


async def test_without_threads_callers_get_that_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    lookups = NameLookups()
    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", start)
        context.setattr(trio._core._thread_cache.THREAD_CACHE, "_idle_workers", {})
        with pytest.raises(OutOfThreads):
            await lookups.find("db.example", 1433, socket.SOCK_STREAM)
    assert not lookups.running
    assert not lookups._names


@pytest.mark.parametrize("host", ["a..example", "a" * 64 + ".example"])
async def test_what_cannot_be_a_name_does_not_exist(host: str) -> None:
    with pytest.raises(socket.gaierror) as failed:
        await resolve_host(host, 1433)
    assert failed.value.errno == socket.EAI_NONAME


async def test_many_connections_to_a_dead_name_do_not_delay_others(autojump_clock: MockClock) -> None:
    trio.socket.set_custom_hostname_resolver(resolver := Resolver())
    reasons: list[Reason] = []

    async def connect() -> None:
        with pytest.raises(TargetError) as failed:
            await open_target(HostPort("db.dead.example", 1433))
        reasons.append(failed.value.reason)

    async with trio.open_nursery() as nursery:
        for _ in range(500):
            nursery.start_soon(connect)
        await wait_all_tasks_blocked()
        assert resolver.waiting == {"db.dead.example": 1}
        before = trio.current_time()
        for purpose in Purpose:
            await resolve_host("live.example", 80, purpose=purpose)
        assert trio.current_time() == before
    assert reasons == 500 * [Reason.TARGET_TIMEOUT]
    # Those that were given up go on, and are counted.
    assert lookups_for(Purpose.TARGET).running == resolver.waiting.total() == 2


async def test_a_name_is_looked_up_again_while_the_first_lookup_hangs(autojump_clock: MockClock) -> None:
    trio.socket.set_custom_hostname_resolver(resolver := Resolver())
    lookups = NameLookups()
    with trio.move_on_after(100) as scope:
        await lookups.find("db.dead.example", 1, socket.SOCK_STREAM)
    assert scope.cancelled_caught
    assert resolver.waiting.total() == MAX_OF_NAME
    # A name service that works again answers the last lookup, and the others are forgotten with their names.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lookups.find, "db.dead.example", 1, socket.SOCK_STREAM)
        await wait_all_tasks_blocked()
        resolver.works.set()
    await wait_all_tasks_blocked()
    assert not lookups.running
    assert not lookups._names
    assert not lookups._zones


async def test_callers_that_give_up_one_after_the_other_look_a_name_up_no_more_often(
    autojump_clock: MockClock,
) -> None:
    trio.socket.set_custom_hostname_resolver(resolver := Resolver())
    lookups, counts = NameLookups(), []
    for _ in range(20):
        with trio.move_on_after(AGAIN_SECONDS / 2):
            await lookups.find("db.dead.example", 1, socket.SOCK_STREAM)
        counts.append(resolver.waiting.total())
    assert counts[:4] == [1, 1, 2, 2]
    assert counts[-1] == lookups.running == MAX_OF_NAME


async def test_the_second_lookup_begins_after_a_while_and_its_answer_is_used(autojump_clock: MockClock) -> None:
    class Recovering(Resolver):
        async def getaddrinfo(self, host: bytes | None, *rest: Any, **more: Any) -> Any:
            if len(self.waiting) == 1:
                return await FixedResolver.getaddrinfo(self, host, *rest, **more)
            return await super().getaddrinfo(host, *rest, **more)

    trio.socket.set_custom_hostname_resolver(Recovering())
    began = trio.current_time()
    await NameLookups().find("db.dead.example", 1, socket.SOCK_STREAM)
    assert trio.current_time() - began == AGAIN_SECONDS


async def test_a_dead_zone_does_not_delay_other_zones_and_all_names_get_their_turn(autojump_clock: MockClock) -> None:
    trio.socket.set_custom_hostname_resolver(resolver := Resolver())
    lookups = NameLookups()
    found: list[int] = []

    async def look_up(number: int) -> None:
        zone = ("dead.example", "DEAD.example", "dead.Example.")[number % 3]
        await lookups.find(f"db{number}.{zone}", 1, socket.SOCK_STREAM)
        found.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(look_up, number)
        await wait_all_tasks_blocked()
        assert lookups.running == MAX_OF_ZONE
        await trio.sleep(100)
        assert lookups.running == MAX_OF_ZONE
        before = trio.current_time()
        await lookups.find("live.example.com", 1, socket.SOCK_STREAM)
        assert trio.current_time() == before
        resolver.works.set()
    assert sorted(found) == list(range(50))


async def test_lookups_have_a_limit(autojump_clock: MockClock) -> None:
    trio.socket.set_custom_hostname_resolver(resolver := Resolver())
    lookups = NameLookups()
    async with trio.open_nursery() as nursery:
        for number in range(3 * MAX_LOOKUPS):
            nursery.start_soon(lookups.find, f"db.{number}-dead.example", 1, socket.SOCK_STREAM)
        await wait_all_tasks_blocked()
        assert resolver.waiting.total() == lookups.running == MAX_LOOKUPS
        resolver.works.set()
    assert len(resolver.asked) == 3 * MAX_LOOKUPS


@attrs.frozen
class Blocked:
    """The system's resolver, which does not answer for names in dead.example, and blocks its threads."""

    release: threading.Event = attrs.field(factory=threading.Event)


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Blocked]:
    blocked = Blocked()
    system = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if isinstance(host, bytes):
            if host.endswith(b"dead.example"):
                blocked.release.wait(60)
                raise socket.gaierror(socket.EAI_AGAIN, "later")
            host = "127.0.0.1"
        return system(host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield blocked
    blocked.release.set()


async def test_threads_are_left_when_the_name_service_of_targets_hangs(blocked: Blocked) -> None:
    """With real threads, which go on after their callers have given up."""
    async with trio.open_nursery() as nursery:
        for number in range(200):
            for host in (f"db{number}.dead.example", f"db.{number}.dead.example", "db.dead.example"):
                nursery.start_soon(resolve_host_of_target, host)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert lookups_for(Purpose.TARGET).running == MAX_OF_ZONE
    assert (await resolve_host("relay.example.com", 443))[0][4][0] == "127.0.0.1"
    assert (await resolve_host("db.live.example.net", 443, purpose=Purpose.TARGET))[0][4][0] == "127.0.0.1"
    limiter = trio.to_thread.current_default_thread_limiter()
    assert limiter.available_tokens == limiter.total_tokens - MAX_OF_ZONE
    blocked.release.set()


async def resolve_host_of_target(host: str) -> None:
    await resolve_host(host, 1433, purpose=Purpose.TARGET)


async def test_the_lookups_of_all_purposes_leave_threads_of_trio() -> None:
    assert len(Purpose) * MAX_LOOKUPS < trio.to_thread.current_default_thread_limiter().total_tokens
