"""Reads the state of a running relay from the management API, for ``hybridrelay status``."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import msgspec

from .client import ManagementClient
from .live_values import ConnectionState, ListenerValue, RelayValue, SenderValue, SessionValue
from .paging import Rows, read_rows

__all__ = ["RelayStatus", "read_status"]


@attrs.frozen
class RelayStatus:
    """The state of a relay, as far as the caller may see it. Its parts were read one after the other."""

    relay: RelayValue
    connections: Rows[ConnectionState]
    listeners: Rows[ListenerValue]
    senders: Rows[SenderValue]
    sessions: Rows[SessionValue]

    def json_parts(self) -> Iterator[str]:
        """Yield the state as JSON for programs, with the names of the API, in parts of less than a MiB."""
        yield f'{{\n  "relay": {_indented(self.relay)}'
        lists: dict[str, Rows[ConnectionState] | Rows[ListenerValue] | Rows[SenderValue] | Rows[SessionValue]] = {
            "hybridConnections": self.connections,
            "listeners": self.listeners,
            "senders": self.senders,
            "sessions": self.sessions,
        }
        for name, rows in lists.items():
            yield f',\n  "{name}": ['
            is_first = True
            for page in rows.pages():
                if page:
                    # Remove the brackets of the array, and the line feed before the closing one.
                    yield f"{'' if is_first else ','}{_indented(page)[1:-1].rstrip()}"
                    is_first = False
            yield "]" if is_first else "\n  ]"
        yield "\n}"


def _indented(value: msgspec.Struct | tuple[msgspec.Struct, ...]) -> str:
    """Return a value as JSON that is indented by two spaces."""
    # Strings in JSON contain no line feeds.
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode().replace("\n", "\n  ")


async def read_status(client: ManagementClient) -> RelayStatus:
    """Read the state of a relay.

    Raises:
        HybridRelayError: see `read_rows`.
    """
    return RelayStatus(
        await client.get("/v1/relay", RelayValue),
        await read_rows(client, "/v1/connectionStates", ConnectionState),
        await read_rows(client, "/v1/listeners", ListenerValue),
        await read_rows(client, "/v1/senders", SenderValue),
        await read_rows(client, "/v1/sessions", SessionValue),
    )
