"""The registration of a connector."""

from __future__ import annotations

from typing import Generic, TypeVar

import attrs

from ..model import KeyId

__all__ = ["HandleT", "Listener"]

#: Identifies the listener's control channel.
HandleT = TypeVar("HandleT")


@attrs.frozen(eq=False)
class Listener(Generic[HandleT]):
    """A registration. Compared by identity, because registering again makes another one."""

    connection: str
    instance: str
    generation: int
    #: The key that has authorized it.
    key: KeyId
    handle: HandleT = attrs.field(repr=False)
    #: The address group from which it registered (`address_group`).
    address: str = ""
    #: The transport of its control channel.
    transport: str = ""
    #: The connector's name and version, as it has reported them.
    software: str = ""
