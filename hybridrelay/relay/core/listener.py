"""One registration of a connector."""

from __future__ import annotations

from typing import Generic, TypeVar

import attrs

from ..model import KeyId

__all__ = ["HandleT", "Listener"]

#: Whatever leads back to the listener's control channel.
HandleT = TypeVar("HandleT")


@attrs.frozen(eq=False)
class Listener(Generic[HandleT]):
    """One registration. Compares by identity: registering again makes another one."""

    connection: str
    instance: str
    generation: int
    #: What authorized it.
    key: KeyId
    handle: HandleT = attrs.field(repr=False)
    #: The network address from which it registered, as far as it counts as one (`address_group`).
    address: str = ""
    #: The transport of its control channel.
    transport: str = ""
    #: Name and version of the connector, as it says.
    software: str = ""
