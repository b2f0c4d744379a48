"""Reading the status of a connector or forward, for ``hybridrelay status --from``."""

from __future__ import annotations

from pathlib import Path

import attrs
import trio

from ..connectivity.endpoint import format_address
from ..connectivity.snapshot import MAX_LISTED
from ..errors import ConfigurationError, ManagementError
from ..management import ManagementClient
from ..security import Secret
from ..streams.connecting import open_tcp
from ..streams.unix_sockets import connect_unix_socket
from .values import StatusValue

__all__ = ["EndpointAddress", "read_endpoint_status"]


@attrs.frozen
class EndpointAddress:
    """The address at which a connector or forward serves its status, for `ManagementClient`."""

    #: The path of a Unix socket, or a host and a port.
    where: Path | tuple[str, int]
    prefix: str = ""
    authorization: Secret | None = None

    @property
    def host(self) -> str:
        """See `Address.host`."""
        return "localhost" if isinstance(self.where, Path) else format_address(*self.where)

    def __str__(self) -> str:
        return str(self.where) if isinstance(self.where, Path) else self.host

    async def connect(self) -> trio.abc.Stream:
        """See `Address.connect`."""
        try:
            if isinstance(self.where, Path):
                return await connect_unix_socket(self.where)
            return await open_tcp(*self.where)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as exc:
            raise ManagementError(
                f"no program serves its status on {self}",
                remedy="start the connector or forward with this --status; if it chose a free port, its log says "
                "which (status.listening)",
            ) from exc
        except OSError as exc:
            raise ManagementError(
                f"cannot connect to {self}: {exc.strerror or exc}",
                remedy="run as the user who runs the program, or as root",
            ) from exc


async def read_endpoint_status(where: Path | tuple[str, int]) -> StatusValue:
    """Read the status of a program, with as many sessions and streams as it lists.

    Args:
        where: the path of a Unix socket, or a host and a port.

    Raises:
        ConfigurationError: what answers is not a connector or forward.
        ManagementError: no program answers; see `ManagementClient.call`.
    """
    address = EndpointAddress(where)
    client = ManagementClient(address, peer=f"the program at {address}")
    try:
        return await client.get("/v1/status", StatusValue, query={"limit": MAX_LISTED})
    except ConfigurationError as exc:
        raise ConfigurationError(
            f"what answers at {address} is not a connector or forward with --status",
            remedy="for a relay, give --state DIR or --management URL instead of --from",
        ) from exc
    finally:
        await client.aclose()
