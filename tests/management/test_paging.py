"""Lists that are read page by page, also from a server whose lists do not end."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator

import attrs
import msgspec
import pytest
import trio
import trio.testing

from hybridrelay.errors import ManagementError
from hybridrelay.http import Request, Response, Route, Router, Service, serve_connection
from hybridrelay.management import ManagementClient, paging
from hybridrelay.management.paging import EndlessList, Rows, read_pages, read_rows
from hybridrelay.management.problems import render_problem
from hybridrelay.security import Secret

PATH = "/v1/things"


class Thing(msgspec.Struct):
    number: int


class Page(msgspec.Struct, rename="camel"):
    value: tuple[Thing, ...]
    next_cursor: str | None


@attrs.define
class Server:
    """Answers each request with the next page."""

    nursery: trio.Nursery
    pages: Iterator[object]
    seconds: float = 0.0
    host: str = "relay.example.com"
    prefix: str = ""
    authorization: Secret | None = None
    queries: list[str | None] = attrs.field(factory=list)

    async def connect(self) -> trio.abc.Stream:
        """See `Address`."""
        ours, theirs = trio.testing.memory_stream_pair()
        router = Router([Route("GET", PATH, self._answer)])
        service = Service(router=router, render_failure=render_problem)
        self.nursery.start_soon(serve_connection, theirs, service)
        return ours

    async def _answer(self, request: Request) -> Response:
        self.queries.append(request.query)
        await trio.sleep(self.seconds)
        return Response(200, json.dumps(next(self.pages)).encode(), (("Content-Type", "application/json"),))


def page(cursor: str | None, *numbers: object) -> dict[str, object]:
    return {"value": [{"number": number} for number in numbers], "nextCursor": cursor}


@pytest.fixture
def serve(nursery: trio.Nursery) -> Callable[..., Server]:
    return lambda pages, seconds=0.0: Server(nursery, iter(pages), seconds)


async def test_all_pages_are_read(serve: Callable[..., Server]) -> None:
    server = serve([page("a", 1, 2), page("b"), page(None, 3)])
    pages = await read_pages(ManagementClient(server), PATH, Page, query={"prefix": "x"})
    assert [thing.number for one in pages for thing in one.value] == [1, 2, 3]
    assert server.queries == [f"limit=1000&prefix=x{more}" for more in ("", "&cursor=a", "&cursor=b")]


async def test_rows_are_kept_as_json(serve: Callable[..., Server]) -> None:
    rows = await read_rows(ManagementClient(serve([page("a", 1, 2), page(None, 3)])), PATH, Thing)
    for _ in range(2):
        assert [one.number for one in rows] == [1, 2, 3]
        assert [len(one) for one in rows.pages()] == [2, 1]
    assert list(Rows.of(Thing)) == []


async def test_rows_of_another_form(serve: Callable[..., Server]) -> None:
    with pytest.raises(ManagementError, match=f"answer of the relay to GET {PATH} is not what this version expects"):
        await read_rows(ManagementClient(serve([page("a", 1), page(None, "one")])), PATH, Thing)


@pytest.mark.parametrize("cursors", ["a", "ab", "abc"])
async def test_pages_that_repeat_are_an_error(serve: Callable[..., Server], cursors: str) -> None:
    server = serve(page(cursor, 1) for cursor in itertools.cycle(cursors))
    with pytest.raises(EndlessList, match="a page names itself or an earlier page as the next one"):
        await read_pages(ManagementClient(server), PATH, Page)
    assert len(server.queries) == len(cursors) + 1


async def test_pages_without_an_end(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "MAX_LIST_BYTES", 100_000)
    server = serve(page(str(number), *range(100)) for number in itertools.count())
    with pytest.raises(EndlessList, match="more than 100000 bytes"):
        await read_rows(ManagementClient(server), PATH, Thing)
    assert 50 < len(server.queries) < 100


async def test_pages_that_take_too_long(serve: Callable[..., Server], autojump_clock: trio.testing.MockClock) -> None:
    server = serve((page(str(number)) for number in itertools.count()), 20.0)
    with pytest.raises(EndlessList, match="its pages take more than 300 s"):
        await read_pages(ManagementClient(server), PATH, Page)
    assert len(server.queries) == 16
