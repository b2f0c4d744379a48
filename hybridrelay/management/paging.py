"""Reads a list of the management API page by page.

The server decides where a list ends. The server may be something other than a relay, so there are also limits for the
whole list; without them, a server that always names a further page would keep the command running and fill the
memory.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Generic, Protocol, TypeVar

import msgspec
import trio

from ..errors import ManagementError
from .client import ManagementClient

__all__ = ["PAGE", "EndlessList", "ListLimits", "PageReader", "Rows", "read_pages", "read_rows"]

#: The maximum number of entries of a page.
PAGE = 1000
#: The limits of one list: the size of all of its pages (bytes), and the time that they take (seconds).
MAX_LIST_BYTES = 128 * 1024 * 1024
MAX_LIST_SECONDS = 300.0


class EndlessList(ManagementError):
    """A list has exceeded its limits, or its pages repeat."""


class ListLimits:
    """Checks that a list comes to an end.

    Args:
        client: reads the list.
        what: the list, for error messages, such as ``/v1/audit``.
    """

    def __init__(self, client: ManagementClient, what: str) -> None:
        self._client = client
        self._what = what
        self._received_before = client.received_bytes
        self._began = trio.current_time()
        self._seen: set[Hashable] = set()

    def check_next(self, cursor: Hashable) -> None:
        """Check whether another page may be read.

        Args:
            cursor: identifies the next page.

        Raises:
            EndlessList: the cursor has occurred before, or the list is too long or takes too long.
        """
        if cursor in self._seen:
            raise self._endless("a page names itself or an earlier page as the next one")
        self._seen.add(cursor)
        if self._client.received_bytes - self._received_before > MAX_LIST_BYTES:
            raise self._endless(f"it has more than {MAX_LIST_BYTES} bytes")
        if trio.current_time() - self._began > MAX_LIST_SECONDS:
            raise self._endless(f"its pages take more than {MAX_LIST_SECONDS:g} s")

    def _endless(self, why: str) -> EndlessList:
        return EndlessList(
            f"the list {self._what} does not end: {why}",
            remedy="check whether the address is that of the relay, and ask for a part of the list",
        )


class _Page(Protocol):
    @property
    def next_cursor(self) -> str | None: ...


PageT = TypeVar("PageT", bound=_Page)
RowT = TypeVar("RowT", bound=msgspec.Struct)


class PageReader(Generic[PageT]):
    """Reads the pages of a list, one after the other.

    Args:
        client: sends the requests.
        path: the path of the list.
        kind: the type of a page.
        query: the parameters of the request, except ``cursor``.
    """

    def __init__(
        self,
        client: ManagementClient,
        path: str,
        kind: type[PageT],
        query: Mapping[str, str | float | None],
    ) -> None:
        self._client = client
        self._path = path
        self._kind = kind
        self._query = query
        self._limits = ListLimits(client, path)
        self._cursor: str | None = None
        self._is_last = False

    async def next(self) -> PageT | None:
        """Return the next page; None after the last one.

        Raises:
            EndlessList: the list does not end.
            HybridRelayError: see `ManagementClient.call`.
        """
        if self._is_last:
            return None
        if self._cursor is not None:
            self._limits.check_next(self._cursor)
        page = await self._client.get(self._path, self._kind, query={**self._query, "cursor": self._cursor})
        self._cursor = page.next_cursor
        self._is_last = self._cursor is None
        return page


async def read_pages(
    client: ManagementClient, path: str, kind: type[PageT], *, query: Mapping[str, str | float | None] | None = None
) -> list[PageT]:
    """Read all pages of a list.

    Args:
        client, path, kind: see `PageReader`.
        query: further parameters.

    Raises:
        HybridRelayError: see `PageReader.next`.
    """
    reader, pages = PageReader(client, path, kind, {"limit": PAGE, **(query or {})}), list[PageT]()
    while (page := await reader.next()) is not None:
        pages.append(page)
    return pages


class _RawPage(msgspec.Struct, rename="camel"):
    """A page whose entries are not decoded yet."""

    value: msgspec.Raw
    next_cursor: str | None


class Rows(Generic[RowT]):
    """The entries of a list. They are kept as JSON, which takes a small part of the memory of decoded entries.

    Args:
        kind: the type of an entry.
        pages: arrays of entries in JSON. They must have been decoded successfully once.
    """

    def __init__(self, kind: type[RowT], pages: list[bytes]) -> None:
        self._decoder = msgspec.json.Decoder(tuple[kind, ...])  # type: ignore[valid-type]
        self._pages = pages

    @classmethod
    def of(cls, kind: type[RowT], rows: Iterable[RowT] = ()) -> Rows[RowT]:
        """Make a list of decoded entries."""
        return cls(kind, [msgspec.json.encode(tuple(rows))])

    def __iter__(self) -> Iterator[RowT]:
        for page in self.pages():
            yield from page

    def pages(self) -> Iterator[tuple[RowT, ...]]:
        """Iterate over the pages."""
        return map(self._decoder.decode, self._pages)


async def read_rows(client: ManagementClient, path: str, kind: type[RowT]) -> Rows[RowT]:
    """Read a whole list, and keep its entries as JSON.

    Args:
        client: sends the requests.
        path: the path of the list.
        kind: the type of an entry.

    Raises:
        EndlessList: the list does not end.
        ManagementError: an entry is malformed; and see `ManagementClient.call`.
    """
    pages: list[bytes] = []
    for page in await read_pages(client, path, _RawPage):
        data = bytes(page.value)
        client.parse_untrusted(data, tuple[kind, ...], f"GET {path}")  # type: ignore[valid-type]
        pages.append(data)
    return Rows(kind, pages)
