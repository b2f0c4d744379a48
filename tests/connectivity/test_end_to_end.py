"""The identities that are accepted at the other end of a data channel: of this hybrid connection's other role, and
after the first channel exactly the same one."""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.connectivity.data import TLS_SECONDS, EndToEnd
from hybridrelay.errors import ConfigurationError, HybridRelayError, PeerIdentityError, RendezvousError
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import (
    Authority,
    ConnectionString,
    Endpoint,
    HostPort,
    Identity,
    PeerIdentity,
    Role,
    create_authority,
    generate_key,
)

from ..waiting import patience


@pytest.fixture(scope="module")
def authority() -> Authority:
    return create_authority("db", now=time.time())


def string(
    authority: Authority, role: Role, *, name: str = "db", identity: Identity | None = None
) -> ConnectionString:
    return ConnectionString(
        endpoints=(Endpoint("relay.example"),),
        key_name="rule",
        key=generate_key(),
        entity_path=name,
        target=HostPort("db.corp", 5432) if role is Role.CONNECTOR else None,
        identity=identity or authority.issue(role, "lab", now=time.time()),
        authority=authority.certificate,
    )


async def meet(
    client: EndToEnd, connector: EndToEnd, pinned: PeerIdentity | None = None
) -> dict[Role, PeerIdentity | HybridRelayError]:
    """A handshake; what each side found. The connector would read what the client says: nothing must come."""
    found: dict[Role, PeerIdentity | HybridRelayError] = {}
    ends = trio.testing.memory_stream_pair()

    async def one(side: EndToEnd, stream: trio.abc.Stream, pin: PeerIdentity | None) -> None:
        try:
            tls, found[side.role] = await side.secure(stream, pinned=pin)
        except HybridRelayError as exc:
            found[side.role] = exc
            return
        with trio.move_on_after(0):
            await trio.aclose_forcefully(tls)

    with trio.fail_after(patience(10)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, client, ends[0], pinned)
            nursery.start_soon(one, connector, ends[1], None)
    return found


async def test_both_learn_who_the_other_is(authority: Authority) -> None:
    client = EndToEnd.from_connection_string(string(authority, Role.APPLICATION))
    connector = EndToEnd.from_connection_string(string(authority, Role.CONNECTOR))
    found = await meet(client, connector)
    peer = found[Role.APPLICATION]
    assert isinstance(peer, PeerIdentity)
    assert (peer.role, peer.label, len(peer.certificate_hash)) == (Role.CONNECTOR, "lab", 32)
    again = (await meet(client, connector, peer))[Role.APPLICATION]
    assert isinstance(again, PeerIdentity)
    assert again.is_same_certificate(peer)


@pytest.mark.parametrize(
    "other",
    [
        lambda authority: authority.issue(Role.CONNECTOR, "lab", now=time.time()),  # renewed, or forged
        lambda authority: authority.issue(Role.CONNECTOR, "another", now=time.time()),
    ],
)
async def test_another_certificate_than_the_first_is_refused(
    authority: Authority, other: Callable[[Authority], Identity]
) -> None:
    client = EndToEnd.from_connection_string(string(authority, Role.APPLICATION))
    first = (await meet(client, EndToEnd.from_connection_string(string(authority, Role.CONNECTOR))))[Role.APPLICATION]
    assert isinstance(first, PeerIdentity)
    second = EndToEnd.from_connection_string(string(authority, Role.CONNECTOR, identity=other(authority)))
    refused = (await meet(client, second, first))[Role.APPLICATION]
    assert isinstance(refused, PeerIdentityError)
    assert refused.reason is Reason.IDENTITY_CHANGED


def test_a_certificate_that_was_not_seen_is_the_same_as_none() -> None:
    unseen = PeerIdentity("db", Role.CONNECTOR, "lab", "01", 4e9)
    assert not unseen.is_same_certificate(unseen)
    assert not unseen.is_same_certificate(attrs.evolve(unseen, certificate_hash=b"x"))


@pytest.mark.parametrize("role", [Role.CONNECTOR, Role.APPLICATION])
def test_a_string_with_the_identity_of_another_connection_or_role_is_refused(
    authority: Authority, role: Role
) -> None:
    EndToEnd.from_connection_string(string(authority, role))
    with pytest.raises(ConfigurationError, match="other"):
        EndToEnd.from_connection_string(string(authority, role, name="other"))
    wrong = authority.issue(role.other, "lab", now=time.time())
    with pytest.raises(ConfigurationError, match=str(role.other)):
        EndToEnd.from_connection_string(string(authority, role, identity=wrong))


@pytest.mark.parametrize("stranger", [Role.CONNECTOR, Role.APPLICATION])
async def test_an_identity_of_another_connection_of_the_same_authority_is_refused(
    authority: Authority, stranger: Role
) -> None:
    """An authority is meant for one hybrid connection, but an administrator may try to use it for two."""
    elsewhere = attrs.evolve(authority, connection_name="other")
    sides = {
        role: EndToEnd.from_connection_string(
            string(elsewhere, role, name="other") if role is stranger else string(authority, role)
        )
        for role in (Role.CONNECTOR, Role.APPLICATION)
    }
    found = await meet(sides[Role.APPLICATION], sides[Role.CONNECTOR])
    refused = found[stranger.other]
    assert isinstance(refused, PeerIdentityError)
    assert refused.reason is Reason.IDENTITY_WRONG_CONNECTION


@pytest.mark.parametrize("role", [Role.CONNECTOR, Role.APPLICATION])
async def test_a_peer_that_says_nothing_is_not_waited_for_for_ever(
    autojump_clock: trio.testing.MockClock, authority: Authority, role: Role
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    side = EndToEnd.from_connection_string(string(authority, role))
    began = trio.current_time()
    with pytest.raises(RendezvousError) as caught:
        await side.secure(ours)
    assert caught.value.reason is Reason.PEER_SILENT
    assert trio.current_time() - began == pytest.approx(TLS_SECONDS)
    with pytest.raises(trio.ClosedResourceError):
        await ours.send_all(b"x")
    await theirs.aclose()
