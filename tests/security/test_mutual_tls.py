"""The end-to-end handshake: which identities are accepted, and which error each side gets otherwise."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.errors import ConfigurationError, PeerIdentityError, TLSHandshakeError
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import (
    Authority,
    Identity,
    PeerIdentity,
    Role,
    Secret,
    check_peer,
    create_authority,
    data_client_context,
    data_server_context,
    peer_identity_error,
)
from hybridrelay.security import tls as tls_module
from hybridrelay.streams import TLSStream

DAY = 86400.0
NOW = time.time()
OURS = create_authority("orders/sql", now=NOW)
#: The same hybrid connection, created again: the names are the same, the keys are not.
THEIRS = create_authority("orders/sql", now=NOW)
CONNECTOR = OURS.issue(Role.CONNECTOR, "hq", now=NOW)
APPLICATION = OURS.issue(Role.APPLICATION, "web shop/1 é", now=NOW)
#: They have the right names, and are of the wrong authority.
STRANGER = THEIRS.issue(Role.APPLICATION, "x", now=NOW)
IMPOSTOR = THEIRS.issue(Role.CONNECTOR, "x", now=NOW)

Outcome = PeerIdentity | PeerIdentityError


class Trust(TypedDict, total=False):
    """Whose authority each side trusts, where it is not `OURS`."""

    client_trusts: Authority
    server_trusts: Authority


async def meet(
    client: Identity,
    server: Identity,
    *,
    client_trusts: Authority = OURS,
    server_trusts: Authority = OURS,
    connection_name: str = "orders/sql",
) -> tuple[Outcome, Outcome]:
    """Make a handshake between the two. Returns what each side has found out about the other."""
    left, right = trio.testing.memory_stream_pair()
    streams = {
        Role.APPLICATION: TLSStream(left, data_client_context(client, client_trusts.certificate)),
        Role.CONNECTOR: TLSStream(right, data_server_context(server, server_trusts.certificate), server_side=True),
    }
    outcomes: dict[Role, Outcome] = {}

    async def side(role: Role) -> None:
        stream = streams[role]
        try:
            await stream.do_handshake()
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"
            outcomes[role] = check_peer(stream, connection_name, role.other)
        except PeerIdentityError as exc:
            outcomes[role] = exc
        except (TLSHandshakeError, trio.BrokenResourceError) as exc:
            error = peer_identity_error(exc, role)
            assert error is not None
            outcomes[role] = error
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        for role in streams:
            nursery.start_soon(side, role)
    return outcomes[Role.APPLICATION], outcomes[Role.CONNECTOR]


async def test_the_right_two_know_each_other() -> None:
    seen_by_client, seen_by_server = await meet(APPLICATION, CONNECTOR)
    for seen, identity in ((seen_by_client, CONNECTOR), (seen_by_server, APPLICATION)):
        assert seen == PeerIdentity(
            connection_name="orders/sql",
            role=identity.role,
            label=identity.label,
            serial=identity.serial,
            not_after=identity.details.not_after,
        )


EXPIRED = {"now": NOW - 400 * DAY, "valid_years": 1}
FUTURE = {"now": NOW + 4 * DAY}


@pytest.mark.parametrize(
    ("client", "server", "trust", "faulty", "reason"),
    [
        (STRANGER, CONNECTOR, {}, Role.APPLICATION, Reason.IDENTITY_WRONG_AUTHORITY),
        (STRANGER, CONNECTOR, {"client_trusts": THEIRS}, Role.CONNECTOR, Reason.IDENTITY_WRONG_AUTHORITY),
        (APPLICATION, IMPOSTOR, {}, Role.CONNECTOR, Reason.IDENTITY_WRONG_AUTHORITY),
        # Somebody with an application's connection string poses as the connector, and the reverse.
        (APPLICATION, APPLICATION, {}, Role.CONNECTOR, Reason.IDENTITY_WRONG_ROLE),
        (CONNECTOR, CONNECTOR, {}, Role.APPLICATION, Reason.IDENTITY_WRONG_ROLE),
        (OURS.issue(Role.APPLICATION, "x", **EXPIRED), CONNECTOR, {}, Role.APPLICATION, Reason.IDENTITY_EXPIRED),
        (OURS.issue(Role.APPLICATION, "x", **FUTURE), CONNECTOR, {}, Role.APPLICATION, Reason.IDENTITY_EXPIRED),
        (APPLICATION, OURS.issue(Role.CONNECTOR, "x", **EXPIRED), {}, Role.CONNECTOR, Reason.IDENTITY_EXPIRED),
        (APPLICATION, OURS.issue(Role.CONNECTOR, "x", **FUTURE), {}, Role.CONNECTOR, Reason.IDENTITY_EXPIRED),
    ],
    ids=[
        "client of another authority",
        "two authorities, server first",
        "server of another authority",
        "application as server",
        "connector as client",
        "client expired",
        "client not yet valid",
        "server expired",
        "server not yet valid",
    ],
)
async def test_each_side_says_whose_identity_is_not_accepted(
    client: Identity, server: Identity, trust: Trust, faulty: Role, reason: Reason
) -> None:
    outcomes = await meet(client, server, **trust)
    for role, outcome in zip((Role.APPLICATION, Role.CONNECTOR), outcomes, strict=True):
        assert isinstance(outcome, PeerIdentityError)
        assert outcome.reason is reason
        assert outcome.remedy
        if role is faulty:
            assert str(outcome).startswith(f"this {role}'s identity is not acceptable to the {role.other}: ")
        else:
            assert str(outcome).startswith(f"the {faulty}'s identity is not acceptable to this {role}: ")


async def test_another_hybrid_connection_under_the_same_authority() -> None:
    # Nothing of ours issues this; the URI decides all the same.
    astray = attrs.evolve(OURS, connection_name="orders/other")
    outcomes = await meet(astray.issue(Role.APPLICATION, "x", now=NOW), astray.issue(Role.CONNECTOR, "y", now=NOW))
    for outcome in outcomes:
        assert isinstance(outcome, PeerIdentityError)
        assert outcome.reason is Reason.IDENTITY_WRONG_CONNECTION
        assert "orders/other" in str(outcome)


async def test_an_identity_issues_nothing() -> None:
    # Somebody with a connector's connection string signs an application's identity with the key in it.
    forger = Authority("orders/sql", CONNECTOR.certificate, CONNECTOR.private_key)
    forged = forger.issue(Role.APPLICATION, "forged", now=NOW)
    for trusts in (OURS, forger):
        _, seen_by_server = await meet(forged, CONNECTOR, client_trusts=trusts)
        assert isinstance(seen_by_server, PeerIdentityError)
        assert seen_by_server.reason is Reason.IDENTITY_WRONG_AUTHORITY


async def test_a_client_without_identity_is_refused() -> None:
    naked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    naked.check_hostname = False
    naked.verify_mode = ssl.CERT_NONE
    left, right = trio.testing.memory_stream_pair()
    client = TLSStream(left, naked)
    server = TLSStream(right, data_server_context(CONNECTOR, OURS.certificate), server_side=True)
    async with trio.open_nursery() as nursery:

        async def give_up() -> None:
            await client.do_handshake()
            with pytest.raises(trio.BrokenResourceError):
                await client.receive_some()
            await client.aclose()

        nursery.start_soon(give_up)
        with pytest.raises(TLSHandshakeError) as caught:
            await server.do_handshake()
        error = peer_identity_error(caught.value, Role.CONNECTOR)
        assert error is not None
        assert error.reason is Reason.TLS_FAILED
        assert "peer did not return a certificate" in str(error)
        await server.aclose()


@pytest.mark.skipif(sys.platform == "win32", reason="socketpair is TCP there, and its buffers are another story")
async def test_the_refusal_arrives_although_data_was_under_way() -> None:
    """Closing a socket with unread data resets it, which would overtake the alert that says why."""
    left, right = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair())
    client = TLSStream(left, data_client_context(STRANGER, OURS.certificate))
    server = TLSStream(right, data_server_context(CONNECTOR, OURS.certificate), server_side=True)
    async with trio.open_nursery() as nursery:

        async def refuse() -> None:
            with pytest.raises(TLSHandshakeError):
                await server.do_handshake()
            await trio.aclose_forcefully(server)

        nursery.start_soon(refuse)
        await client.do_handshake()
        await client.send_all(bytes(50_000))
        with pytest.raises(trio.BrokenResourceError) as caught:
            await client.receive_some()
        error = peer_identity_error(caught.value, Role.APPLICATION)
        assert error is not None
        assert error.reason is Reason.IDENTITY_WRONG_AUTHORITY
        await client.aclose()


async def test_older_tls_is_refused() -> None:
    left, right = trio.testing.memory_stream_pair()
    context = data_client_context(APPLICATION, OURS.certificate)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    client = TLSStream(left, context)
    server = TLSStream(right, data_server_context(CONNECTOR, OURS.certificate), server_side=True)

    async def fails(stream: TLSStream) -> None:
        with pytest.raises(TLSHandshakeError):
            await stream.do_handshake()
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails, client)
        nursery.start_soon(fails, server)


def test_a_lost_connection_is_nobodys_identity() -> None:
    assert peer_identity_error(TLSHandshakeError("the connection ended"), Role.CONNECTOR) is None
    assert peer_identity_error(trio.BrokenResourceError(), Role.CONNECTOR) is None


def test_tls_failures_deep_down_the_causes() -> None:
    try:
        try:
            raise ssl.SSLError(1, "bad record mac")
        except ssl.SSLError as exc:
            raise trio.BrokenResourceError from exc
    except trio.BrokenResourceError as exc:
        error = PeerIdentityError("outer")
        error.__cause__ = exc
    found = peer_identity_error(error, Role.APPLICATION)
    assert found is not None
    assert found.reason is Reason.TLS_FAILED


def peer(**changes: object) -> dict[str, object]:
    certificate: dict[str, object] = {
        "subjectAltName": (("URI", "hybridrelay://identity/orders/application/web"),),
        "serialNumber": "0A",
        "notAfter": "Jan  5 09:34:43 2034 GMT",
    }
    return certificate | changes


def test_check_peer_reads_the_dict() -> None:
    assert check_peer(peer(), "orders", Role.APPLICATION) == PeerIdentity(
        "orders", Role.APPLICATION, "web", "0A", 2020066483.0
    )


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        ({}, Reason.TLS_FAILED),
        (peer(subjectAltName=()), Reason.TLS_FAILED),
        (peer(subjectAltName=(("DNS", "hybridrelay://identity/orders/application/web"),)), Reason.TLS_FAILED),
        (peer(subjectAltName=(("URI", "hybridrelay://identity/orders/application/web"),) * 2), Reason.TLS_FAILED),
        (peer(subjectAltName=(("URI", "hybridrelay://identity/orders/application"),)), Reason.TLS_FAILED),
        (peer(subjectAltName=(("URI", "hybridrelay://identity/orders/relay/web"),)), Reason.TLS_FAILED),
        (peer(subjectAltName=(("URI", "hybridrelay://identity/%6Frders/application/web"),)), Reason.TLS_FAILED),
        (
            peer(subjectAltName=(("URI", "hybridrelay://identity/Orders/application/web"),)),
            Reason.IDENTITY_WRONG_CONNECTION,
        ),
        (peer(subjectAltName=(("URI", "hybridrelay://identity/orders/connector/web"),)), Reason.IDENTITY_WRONG_ROLE),
        (peer(subjectAltName=(("URI", "hybridrelay://identity/orders/claim/web"),)), Reason.IDENTITY_WRONG_ROLE),
    ],
)
def test_check_peer_refuses(certificate: dict[str, object], reason: Reason) -> None:
    with pytest.raises(PeerIdentityError) as caught:
        check_peer(certificate, "orders", Role.APPLICATION)
    assert caught.value.reason is reason


def test_a_claim_certificate_is_accepted_only_where_claims_are() -> None:
    claim = peer(subjectAltName=(("URI", "hybridrelay://identity/orders/claim/web"),))
    assert check_peer(claim, "orders", Role.APPLICATION, accepts_claims=True).role is Role.CLAIM
    with pytest.raises(PeerIdentityError, match="is for the claim, and the application was expected"):
        check_peer(claim, "orders", Role.APPLICATION)


@pytest.mark.parametrize("make", [data_client_context, data_server_context])
def test_a_damaged_identity_is_refused_before_it_is_used(make: Callable[[Identity, bytes], ssl.SSLContext]) -> None:
    for identity, authority in [
        (CONNECTOR, b"junk"),
        (attrs.evolve(CONNECTOR, certificate=b"junk"), OURS.certificate),
        (attrs.evolve(CONNECTOR, private_key=Secret("junk")), OURS.certificate),
        (attrs.evolve(CONNECTOR, private_key=APPLICATION.private_key), OURS.certificate),
    ]:
        with pytest.raises(ConfigurationError):
            make(identity, authority)


def test_keys_are_loaded_where_there_is_no_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.memfd_create", raising=False)
    with tls_module.private_file(b"content") as path:
        with open(path, "rb") as file:
            assert file.read() == b"content"
    with pytest.raises(FileNotFoundError):
        Path(path).read_bytes()
    data_server_context(CONNECTOR, OURS.certificate)


def test_running_needs_no_cryptography() -> None:
    """Importing it takes 90 ms, and only issuing certificates needs it."""
    check = "import sys, hybridrelay.security, hybridrelay.streams; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize("make", [data_client_context, data_server_context])
def test_what_is_older_than_tls_1_3_is_not_spoken(make: Callable[[Identity, bytes], ssl.SSLContext]) -> None:
    context = make(CONNECTOR if make is data_server_context else APPLICATION, OURS.certificate)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.verify_mode is ssl.CERT_REQUIRED


async def test_no_session_can_be_resumed() -> None:
    """A resumed TLS session would not show the peer's certificate again."""
    left, right = trio.testing.memory_stream_pair()
    client = TLSStream(left, data_client_context(APPLICATION, OURS.certificate))
    server = TLSStream(right, data_server_context(CONNECTOR, OURS.certificate), server_side=True)
    assert server.ssl_object.context.num_tickets == 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(server.do_handshake)
    await server.send_all(b"tickets come before this")
    assert await client.receive_some()
    session = client.ssl_object.session
    assert session is None or not session.has_ticket


def test_who_has_shown_no_certificate_is_not_the_same_as_anybody() -> None:
    known = PeerIdentity("orders/sql", Role.CONNECTOR, "hq", "01", 0.0, certificate_hash=b"h")
    unknown = attrs.evolve(known, certificate_hash=b"")
    assert known.is_same_certificate(known)
    assert not known.is_same_certificate(attrs.evolve(known, certificate_hash=b"other"))
    for one, other in [(known, unknown), (unknown, known), (unknown, unknown)]:
        assert not one.is_same_certificate(other)
