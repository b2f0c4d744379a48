"""Data channels at the connector, from the relay's offer until the client has proved its identity and sent HELLO."""

from __future__ import annotations

import contextlib

import trio

from .._unexpected_failure import unexpected_failure
from ..connectivity.control import ControlChannel
from ..connectivity.data import CHANNEL_FAILED, open_data_channel
from ..connectivity.discovery import Candidate
from ..errors import HybridRelayError, RelayUnreachable, RendezvousError, SessionError
from ..events.connector import DataChannelDeclined, DataChannelFailed
from ..events.stream import EventStream
from ..mux import receive_hello, refuse_session
from ..protocol import control
from ..protocol.frames import Hello
from ..protocol.reasons import Reason
from ..security import PeerIdentity, Secret
from ..streams import TLSStream
from ..streams.sockets import abort_stream
from .published import Publication, Published
from .sessions import OpeningChannel, ProvenChannel, Sessions
from .unproven import Newcomer, UnprovenChannels

#: How many data channels may exist whose peer has not proved its identity, for each hybrid connection and relay.
#: Limits what a relay, or anyone with a Send key, can make this machine spend by requesting more and more channels;
#: an honest client needs one. `unproven.py` decides which channel is closed to make room for another.
MAX_UNPROVEN_CHANNELS = 16
#: The time from an offer to the end of the end-to-end handshake (seconds). It is longer than the relay's deadline for
#: the other side, so that the relay's report about a missing side arrives first.
UNPROVEN_SECONDS = 35.0
#: How many data channels of one identity may wait for HELLO, in addition to one for each of its sessions: after a
#: restart of the relay, all of them resume at the same moment.
MAX_GREETING_CHANNELS = 16
#: The time from the end-to-end handshake to the client's HELLO (seconds). Clients send it at once.
HELLO_SECONDS = 10.0


#: How long the report to the relay that an identity was proved may take (seconds). It takes a long time only if the
#: relay does not read.
REPORT_SECONDS = 1.0


async def _report_proved(control_channel: ControlChannel, offer: control.Offer) -> None:
    """Report to the relay that the peer has proved its identity. The session does not depend on the report."""
    with trio.move_on_after(REPORT_SECONDS), contextlib.suppress(RelayUnreachable):
        await control_channel.send(control.Proved(offer.id))


class DataChannels:
    """The data channels of a connector, from the relay's offer until a session uses them.

    Args:
        sessions: receives the channels whose peer has proved its identity.
        events: the stream to which events are published.
    """

    def __init__(self, sessions: Sessions, events: EventStream) -> None:
        self._sessions = sessions
        self._events = events
        #: Proven channels whose HELLO has not arrived, by identity.
        self._greeting: dict[tuple[Published, str], UnprovenChannels] = {}

    async def serve(
        self,
        publication: Publication,
        control_channel: ControlChannel,
        offer: control.Offer,
        newcomer: Newcomer,
        key: Secret | None = None,
    ) -> None:
        """Serve one data channel, from the relay's offer until it ends. Failures are published as events, not raised.

        Args:
            publication: the registration to which the relay has made the offer.
            control_channel: the control channel over which the offer came.
            offer: the offer, which was accepted.
            newcomer: the channel's place in `publication.unproven`, which is released when the peer has proved its
                identity.
            key: the key with which the connector was registered when the relay made the offer.
        """
        published, link = publication.published, publication.link
        newcomer.scope.deadline = trio.current_time() + UNPROVEN_SECONDS
        #: The route, as soon as it was chosen, and then what was opened over it.
        candidate: Candidate | None = None
        opened: tuple[TLSStream, PeerIdentity] | None = None
        opening = OpeningChannel(published, key, newcomer.scope)
        self._sessions.opening.add(opening)
        try:
            with newcomer.scope:
                candidate = await link.choose()
                opened = await open_data_channel(
                    link.endpoint, candidate, offer.ticket, published.end_to_end, dialer=link.dialer
                )
            if candidate is None or opened is None:
                self._events.publish(
                    DataChannelDeclined(
                        connection=published.name,
                        rendezvous=offer.rendezvous,
                        host=link.host,
                        reason=Reason.LIMIT,
                        detail="it was closed to make room for newer ones, or no identity was proved in time",
                    )
                )
                with contextlib.suppress(RelayUnreachable):
                    await control_channel.send(control.Failed(offer.id, Reason.LIMIT))
                return
            publication.unproven.leave(newcomer)
            tls, peer = opened
            if reason := self._sessions.denied(published, peer):
                await refuse_session(tls, reason)
                return
            try:
                await _report_proved(control_channel, offer)
            except BaseException:
                await trio.aclose_forcefully(tls)
                raise
            proven = ProvenChannel(
                published, tls, peer, link, candidate, opening, offer.rendezvous, offer.client_address
            )
            await self.greet(proven)
        except HybridRelayError as exc:
            self._publish_failure(publication, offer, exc, is_lost=control_channel.has_ended)
            if candidate is not None and opened is None and exc.reason in CHANNEL_FAILED:
                link.doubt(candidate)
            if isinstance(exc, RelayUnreachable):
                # Declining tells the client at once. If the control channel is lost, too, the relay already knows.
                link.forget()
                with contextlib.suppress(RelayUnreachable):
                    await control_channel.send(control.Failed(offer.id, Reason.LISTENER_CANNOT_DIAL))
        except Exception as exc:  # noqa: BLE001
            # A bug in this program. It is logged, and must not affect other channels.
            self._events.publish(unexpected_failure("data channel", exc, published.name))
        finally:
            publication.unproven.failed(newcomer)
            self._sessions.end_opening(opening)

    def _publish_failure(
        self, publication: Publication, offer: control.Offer, error: HybridRelayError, *, is_lost: bool
    ) -> None:
        """Publish why a data channel failed. `is_lost`: whether the control channel over which it was offered has
        ended."""
        name, host = publication.published.name, publication.link.host
        if error.reason is Reason.TICKET_UNKNOWN and is_lost:
            # Our acceptance was lost with the control channel, so the relay will repeat the offer over the next one.
            self._events.publish(
                DataChannelDeclined(
                    connection=name,
                    host=host,
                    rendezvous=offer.rendezvous,
                    reason=error.reason,
                    detail=str(error),
                )
            )
        else:
            self._events.publish(
                DataChannelFailed(
                    connection=name,
                    host=host,
                    rendezvous=offer.rendezvous,
                    reason=error.reason,
                    detail=str(error),
                    remedy=error.remedy or "",
                )
            )

    async def greet(self, channel: ProvenChannel) -> None:
        """Receive HELLO on a data channel whose peer has proved its identity, and pass the channel to
        `Sessions.take`.

        Raises:
            HybridRelayError: no HELLO arrived in time, or the channel failed. The channel is closed.

        If cancelled, the channel is closed.
        """
        published, peer, stream = channel.published, channel.peer, channel.stream
        greeting = self._greeting.setdefault(channel.owner, UnprovenChannels())
        limit = MAX_GREETING_CHANNELS + self._sessions.count_of(published, peer)
        newcomer = greeting.admit("", limit)
        if newcomer is None:
            self._sessions.publish_refusal(
                published, peer, Reason.LIMIT, "too many of its data channels are waiting for HELLO"
            )
            await abort_stream(stream)
            return
        received: tuple[Hello, bytes] | None = None
        newcomer.scope.deadline = trio.current_time() + HELLO_SECONDS
        try:
            with newcomer.scope:
                received = await receive_hello(stream)
        except BaseException as exc:
            await trio.aclose_forcefully(stream)
            if isinstance(exc, SessionError):
                raise published.end_to_end.explain(exc) from exc
            raise
        finally:
            greeting.leave(newcomer)
            if not greeting:
                self._greeting.pop(channel.owner, None)
        if received is None:
            await abort_stream(stream)
            raise RendezvousError(
                f"{peer.label} ({peer.serial}) did not send HELLO in time", reason=Reason.PEER_SILENT
            )
        hello, initial = received
        await self._sessions.take(channel, hello, initial)
