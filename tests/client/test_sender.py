"""A client at one relay that is played: what becomes of its control channel."""

from __future__ import annotations

import time

import pytest
import trio
import trio.testing

from hybridrelay.client.sender import Sender
from hybridrelay.connectivity.data import EndToEnd
from hybridrelay.errors import RelayUnreachable
from hybridrelay.protocol import control
from hybridrelay.security import ConnectionString, Endpoint, Role, create_authority, generate_key


class FakeControl:
    """Joins whoever asks."""

    def __init__(self) -> None:
        self.said, self.messages = trio.open_memory_channel[control.Message](1)
        self.closed = False

    def next_id(self) -> int:
        return 1

    def close(self) -> None:
        self.closed = True
        self.said.close()

    async def request(self, message: control.Join) -> control.Message:
        await trio.lowlevel.checkpoint()
        return control.Joined(1, bytes(32), "0" * 32, 30)


class FakeLink:
    """A relay whose control channels work, and to which no data channel can be opened."""

    host = "relay.example"
    remembers = False

    def __init__(self) -> None:
        self.opened: list[FakeControl] = []

    def forget(self, **_: object) -> None:
        pass

    async def start_control(self, nursery: trio.Nursery) -> FakeControl:
        await trio.lowlevel.checkpoint()
        self.opened.append(FakeControl())
        return self.opened[-1]

    async def choose(self) -> None:
        await trio.lowlevel.checkpoint()
        raise RelayUnreachable("swallowed")


def connection_string() -> ConnectionString:
    authority = create_authority("db", now=time.time())
    return ConnectionString(
        endpoints=(Endpoint(FakeLink.host),),
        key_name="sender",
        key=generate_key(),
        entity_path="db",
        identity=authority.issue(Role.APPLICATION, "x", now=time.time()),
        authority=authority.certificate,
    )


async def test_draining_keeps_a_client_away_for_a_minute_at_most(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    link, string, drained = FakeLink(), connection_string(), list[Sender]()
    sender = Sender(
        link, string, EndToEnd.from_connection_string(string), nursery, clock=time.time, on_draining=drained.append
    )
    await sender._control_channel()
    for _ in range(10):
        await link.opened[0].said.send(control.Draining(2**53 - 1))
        await trio.sleep(control.MAX_RETRY_AFTER_SECONDS / 9)
    assert not sender.is_away, "repeating it extends nothing"
    assert drained == [sender]


async def test_a_control_channel_that_is_given_up_does_not_stay_open(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    link, string = FakeLink(), connection_string()
    sender = Sender(
        link,
        string,
        EndToEnd.from_connection_string(string),
        nursery,
        clock=time.time,
        on_draining=lambda sender: None,
    )
    for count in (1, 2, 3):
        with pytest.raises(RelayUnreachable):
            await sender.open_data_channel(None)
        assert len(link.opened) == count
        assert all(channel.closed for channel in link.opened)
