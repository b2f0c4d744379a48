"""Opening data channels: a channel through the relay by ticket, then end-to-end TLS between client and connector."""

from __future__ import annotations

import ssl

import attrs
import trio

from .._value import Value
from ..abc import Dialer, Purpose
from ..errors import ConfigurationError, HybridRelayError, PeerIdentityError, RendezvousError, TLSHandshakeError
from ..protocol.reasons import Reason
from ..security import (
    ConnectionString,
    PeerIdentity,
    Role,
    check_peer,
    data_client_context,
    data_server_context,
    peer_identity_error,
)
from ..streams import TLSStream
from .channel import open_channel
from .dialing import DIRECTLY
from .discovery import Candidate
from .endpoint import RelayEndpoint

#: The time for the end-to-end handshake (seconds), which takes up to one and a half round trips through the relay.
TLS_SECONDS = 15.0
#: Why an end-to-end handshake fails if the network, or the program at the other end, cuts the channel, alters what it
#: carries, or lets nothing pass.
CHANNEL_FAILED = frozenset({Reason.SESSION_LOST, Reason.PEER_SILENT, Reason.TLS_FAILED})


@attrs.frozen
class EndToEnd(Value):
    """The end-to-end TLS of one side, made once and used for all of its data channels."""

    connection: str
    role: Role
    #: The serial of our identity.
    serial: str
    context: ssl.SSLContext = attrs.field(repr=False)

    @classmethod
    def from_connection_string(cls, string: ConnectionString) -> EndToEnd:
        """Use the identity of a connection string. That of an application may also be a claim certificate.

        Raises:
            ConfigurationError: the identity is missing; it or the issuer is damaged; the identity is for another
                hybrid connection or role; or see `data_server_context`.
        """
        identity, authority = string.require_identity()
        role = string.role
        make = data_server_context if role is Role.CONNECTOR else data_client_context
        context = make(identity, authority)
        name = identity.details.name
        # Without this check, a connector with a wrong identity would register and seem to work, and yet fail with
        # every client.
        is_claim = role is Role.APPLICATION and name.role is Role.CLAIM
        if name.connection_name != string.entity_path or not (name.role is role or is_claim):
            raise ConfigurationError(
                f"the connection string is {_whose(role)} for {string.entity_path}, and the identity in it is "
                f"{_whose(name.role)} for {name.connection_name}",
                remedy="use the connection strings as created; 'connections issue' makes further ones",
            )
        if string.issuer is not None:
            string.issuer.check(authority)
        return cls(string.entity_path, role, identity.serial, context)

    async def secure(
        self, stream: trio.abc.Stream, *, pinned: PeerIdentity | None = None
    ) -> tuple[TLSStream, PeerIdentity]:
        """Do the handshake on a channel that is connected to the peer, and check the identity of the peer.

        Args:
            stream: the channel.
            pinned: the only acceptable identity, which the peer proved on the session's first channel; None accepts
                every valid identity.

        Raises:
            PeerIdentityError: the peer is not `pinned` (`Reason.IDENTITY_CHANGED`); or the identity of one side is
                not acceptable to the other, as far as this side can know: a client learns only after the handshake
                whether the connector accepts it.
            RendezvousError: the channel was lost, or the peer did not answer in time.

        On every exception, including cancellation, the stream is closed.
        """
        tls = TLSStream(stream, self.context, server_side=self.role is Role.CONNECTOR)
        try:
            with trio.fail_after(TLS_SECONDS):
                await tls.do_handshake()
            # A connector without an issuer accepts claims, too, and answers that it issues no identities.
            is_connector = self.role is Role.CONNECTOR
            peer = check_peer(tls, self.connection, self.role.other, accepts_claims=is_connector)
            if pinned is not None and not peer.is_same_certificate(pinned):
                raise PeerIdentityError(
                    f"the {peer.role} at the other end is {peer.label} ({peer.serial}), but the session began with "
                    f"{pinned.label} ({pinned.serial})",
                    reason=Reason.IDENTITY_CHANGED,
                    remedy="unless you changed the connector's identity, someone else has a Listen key and an "
                    "identity of this hybrid connection: regenerate the key, and create the hybrid connection again",
                )
            return tls, peer
        except PeerIdentityError:
            await trio.aclose_forcefully(tls)
            raise
        except (TLSHandshakeError, trio.BrokenResourceError) as exc:
            await trio.aclose_forcefully(tls)
            raise self.explain(exc) from exc
        except trio.TooSlowError as exc:
            await trio.aclose_forcefully(tls)
            raise RendezvousError(
                "the other side did not complete the end-to-end handshake in time", reason=Reason.PEER_SILENT
            ) from exc
        except BaseException:
            await trio.aclose_forcefully(tls)
            raise

    def explain(self, exc: BaseException) -> HybridRelayError:
        """Return the error for a data channel that failed with `exc`: an identity was refused, or the channel was
        lost."""
        identity_error = peer_identity_error(exc, self.role)
        if identity_error is not None:
            return identity_error
        reason = exc.reason if isinstance(exc, HybridRelayError) else Reason.SESSION_LOST
        return RendezvousError(f"the data channel was lost: {exc}", reason=reason)


def _whose(role: Role) -> str:
    return f"{'an' if role is Role.APPLICATION else 'a'} {role}'s"


async def open_data_channel(
    endpoint: RelayEndpoint,
    candidate: Candidate,
    ticket: bytes,
    end_to_end: EndToEnd,
    *,
    pinned: PeerIdentity | None = None,
    dialer: Dialer = DIRECTLY,
) -> tuple[TLSStream, PeerIdentity]:
    """Open a data channel with a ticket and do the end-to-end handshake. Nothing else is sent.

    Args:
        endpoint: the relay.
        candidate: the route.
        ticket: the ticket of the rendezvous.
        end_to_end: has our identity.
        pinned: see `EndToEnd.secure`.
        dialer: opens what the transport needs.

    Raises:
        RelayUnreachable, RendezvousError: see `open_channel`.
        PeerIdentityError, RendezvousError: see `EndToEnd.secure`.

    Every step has a deadline. If cancelled, nothing stays open.
    """
    stream = await open_channel(endpoint, candidate, Purpose.DATA, ticket=ticket, dialer=dialer)
    return await end_to_end.secure(stream, pinned=pinned)
