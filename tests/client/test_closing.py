"""The end of a client: everything that it owns has ended, whatever happens while it closes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.abc import Dialer
from hybridrelay.client import Client, ClientConfig, open_client, request_identity
from hybridrelay.client.sessions import Sessions
from hybridrelay.errors import RendezvousError
from hybridrelay.events import Event, EventStream, IdentityNotRenewed, StreamClosed
from hybridrelay.mux import MuxStream
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import (
    ConnectionString,
    Identity,
    create_authority,
    create_issuer,
    make_request,
    new_private_key,
    parse_request_untrusted,
)
from hybridrelay.testing import session_pair

from .relays.test_relay_connection import connection_string


@pytest.mark.parametrize("fails", [False, True])
async def test_each_stream_has_its_end_event_even_if_ending_the_sessions_hangs_or_fails(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, fails: bool
) -> None:
    client_session, connector = await session_pair(nursery)

    async def request_stream(
        _: Client, *, port: int | None = None, wait_opened: bool = True, patience: float | None = None
    ) -> MuxStream:
        stream = client_session.open_stream_nowait()
        (await connector.offers.receive()).accept()
        await stream.wait_opened()
        return stream

    async def aclose(_: Sessions) -> None:
        if fails:
            raise RuntimeError("a bug")
        await trio.sleep_forever()

    monkeypatch.setattr(Client, "request_stream", request_stream)
    monkeypatch.setattr(Sessions, "aclose", aclose)
    published: list[Event] = []
    run = partial(open_client, connection_string(), events=EventStream(published.append))
    try:
        async with run() as client:
            await client.open_stream()
    except RuntimeError:
        assert fails
    (end,) = [event for event in published if isinstance(event, StreamClosed)]
    assert (end.outcome, end.reason) == ("broken", Reason.GOING_AWAY)
    nursery.cancel_scope.cancel()


async def black_hole(*_: object, **__: object) -> trio.SocketStream:
    """Dial a relay that does not answer."""
    await trio.sleep_forever()
    raise AssertionError


def string_with_due_identity() -> ConnectionString:
    """The connection string of an application whose identity is to be renewed at once."""
    authority, key, now = create_authority("db", now=time.time()), new_private_key(), time.time()
    issuer = create_issuer(authority, now=now)
    issued = issuer.sign("db", "x", parse_request_untrusted(make_request(key)), now=now - 9000, seconds=10_000)
    identity = Identity(issued.certificate, key, issued.issuer)
    return attrs.evolve(connection_string(), identity=identity, authority=authority.certificate)


@asynccontextmanager
async def client_that_waits_for_a_session(config: ClientConfig, events: EventStream) -> AsyncIterator[Client]:
    """Open a client, and leave its block only when something waits for a session."""
    with trio.fail_after(60):
        async with open_client(config, events=events) as client:
            yield client
            while not client._opener.waiting:
                await trio.testing.wait_all_tasks_blocked()


async def test_a_renewal_that_waits_for_a_session_ends_with_the_client() -> None:
    def use(_before: ConnectionString, _after: ConnectionString) -> None:
        raise AssertionError("nobody has issued an identity")

    published: list[Event] = []
    config = ClientConfig(string_with_due_identity(), dialer=Dialer(tcp=black_hole), use_renewed=use)
    async with client_that_waits_for_a_session(config, EventStream(published.append)) as client:
        pass
    assert client.identity.renewer is not None
    assert not [event for event in published if isinstance(event, IdentityNotRenewed)]


async def test_a_request_for_an_identity_has_its_own_error_if_the_client_is_closed(nursery: trio.Nursery) -> None:
    errors: list[RendezvousError] = []
    has_failed = trio.Event()

    async def request(client: Client) -> None:
        with pytest.raises(RendezvousError, match="the client was closed") as caught:
            await request_identity(client, new_private_key())
        errors.append(caught.value)
        has_failed.set()

    config = ClientConfig(string_with_due_identity(), dialer=Dialer(tcp=black_hole))
    async with client_that_waits_for_a_session(config, EventStream()) as client:
        nursery.start_soon(request, client)
    with trio.fail_after(60):
        await has_failed.wait()
    assert [error.reason for error in errors] == [Reason.GOING_AWAY]
