"""The control channel of a program whose key is rolled, as the services of a relay see it."""

from __future__ import annotations

import attrs

from hybridrelay.protocol import control
from hybridrelay.relay.model import KeyId


@attrs.define(eq=False)
class ProgramChannel:
    """Notes what the relay has given to the program, which has presented `keys`."""

    instance: str
    keys: frozenset[KeyId]
    address: str = "192.0.2.1"
    role: control.PeerRole | None = control.PeerRole.CONNECTOR
    given: list[control.Message] = attrs.field(factory=list)

    def give(self, message: control.Message) -> None:
        self.given.append(message)
