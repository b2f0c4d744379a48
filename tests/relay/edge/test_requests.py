"""What the first bytes of a connection may ask for on which port."""

from __future__ import annotations

from typing import cast

import pytest

from hybridrelay.abc import Listener, Port, Purpose
from hybridrelay.protocol import RemoteProtocolError
from hybridrelay.protocol.preamble import Preamble
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.rendezvous import Arrival
from hybridrelay.relay.core.rendezvous_states import Side
from hybridrelay.relay.edge.ports import OpenPort
from hybridrelay.relay.edge.requests import ControlRequest, DataRequest, ProbeRequest, RequestReader

ARRIVAL = Arrival("1", "db", Side.SENDER)
EXPECTED = {
    Purpose.DATA: DataRequest(ARRIVAL),
    Purpose.CONTROL: ControlRequest(b"key id", False),
    Purpose.PROBE: ProbeRequest(),
}


@pytest.mark.parametrize("purpose", EXPECTED, ids=lambda one: one.name)
def test_each_purpose_belongs_to_its_ports(purpose: Purpose) -> None:
    used: list[bytes] = []

    def use_ticket(ticket: bytes) -> Arrival:
        used.append(ticket)
        return ARRIVAL

    reader = RequestReader(use_ticket, lambda proof: b"key id")
    for purposes in ({purpose}, set(Purpose), set(Purpose) - {purpose}):
        port = OpenPort(cast(Port, None), cast(Listener, None), frozenset(purposes), "tcp")
        if purpose in purposes:
            assert reader.decode(port, Preamble(purpose).encode()) == EXPECTED[purpose]
        else:
            count = len(used)
            with pytest.raises(RemoteProtocolError) as caught:
                reader.decode(port, Preamble(purpose).encode())
            assert caught.value.reason is Reason.WRONG_PORT
            assert len(used) == count, "a ticket is not used up on a port where it is of no use"
