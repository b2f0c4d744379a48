"""Everything that the management API says about a running relay, read in pages: for ``hybridrelay status``."""

from __future__ import annotations

from typing import Protocol, TypeVar

import attrs
import msgspec

from .client import ManagementClient
from .live_values import (
    ListenerPage,
    ListenerValue,
    RelayValue,
    SenderPage,
    SenderValue,
    SessionPage,
    SessionValue,
)
from .values import ConnectionPage, ConnectionValue

__all__ = ["RelayStatus", "read_status"]

_PAGE = 1000


class _Page(Protocol):
    @property
    def next_cursor(self) -> str | None: ...


PageT = TypeVar("PageT", bound=_Page)


@attrs.frozen
class RelayStatus:
    """What a relay holds. Its parts were read one after the other, while the relay ran."""

    relay: RelayValue
    connections: tuple[ConnectionValue, ...]
    listeners: tuple[ListenerValue, ...]
    senders: tuple[SenderValue, ...]
    sessions: tuple[SessionValue, ...]

    def as_json(self) -> str:
        """For programs, with the names that the API has."""
        found = {
            "relay": self.relay,
            "hybridConnections": self.connections,
            "listeners": self.listeners,
            "senders": self.senders,
            "sessions": self.sessions,
        }
        return msgspec.json.format(msgspec.json.encode(found), indent=2).decode()


async def read_status(client: ManagementClient) -> RelayStatus:
    """Read it.

    Raises:
        ManagementError: see `ManagementClient.call`.
    """
    relay = await client.get("/v1/relay", RelayValue)
    connections = await _pages(client, "/v1/hybridConnections", ConnectionPage)
    listeners = await _pages(client, "/v1/listeners", ListenerPage)
    senders = await _pages(client, "/v1/senders", SenderPage)
    sessions = await _pages(client, "/v1/sessions", SessionPage)
    return RelayStatus(
        relay,
        tuple(one for page in connections for one in page.value),
        tuple(one for page in listeners for one in page.value),
        tuple(one for page in senders for one in page.value),
        tuple(one for page in sessions for one in page.value),
    )


async def _pages(client: ManagementClient, path: str, kind: type[PageT]) -> list[PageT]:
    pages = [await client.get(path, kind, query={"limit": _PAGE})]
    while (cursor := pages[-1].next_cursor) is not None:
        pages.append(await client.get(path, kind, query={"limit": _PAGE, "cursor": cursor}))
    return pages
