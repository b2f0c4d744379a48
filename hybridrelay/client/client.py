"""The client: one session per hybrid connection, opened when first needed and used for every stream.

The work is done in `opening.py` (waiting for a session), `requesting.py` (opening streams on it), `sessions.py` (the
sessions that have not ended), `string_in_use.py` (the connection string and its changes), `own_identity.py` (the
renewal of the identity), and `relays/` (the relays).
"""

# This module is long because it contains, and documents, everything that an application calls.

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from .._log_limit import report_left_out
from .._nursery import FlatNursery
from ..abc import Transport
from ..connectivity.data import EndToEnd
from ..connectivity.instance import new_instance
from ..connectivity.link import RelayLink
from ..connectivity.network import watch_network
from ..connectivity.report import Report
from ..connectivity.snapshot import MAX_LISTED, CredentialSnapshot, EndpointSnapshot, UpdateStatus
from ..connectivity.string_files import keep_in_own_file
from ..connectivity.string_keeper import keep_trying
from ..errors import DeniedByPolicy, StreamRefused
from ..events.endpoint import NetworkChanged
from ..events.log import logged_events
from ..events.stream import EventStream
from ..mux import DATA_CONFIG, Budget, DatagramFlow, Feature, MuxStream, Session
from ..policy import WatchedPolicy
from ..protocol import control
from ..protocol.open_metadata import port_metadata
from ..protocol.reasons import Reason
from ..security import ConnectionString, StringUpdate
from .config import ClientConfig, to_connection_string
from .control_channel_keeper import ControlChannelKeeper
from .counters import ClientCounters
from .following import Follower
from .opening import SessionOpener
from .other_connectors import OtherConnectors
from .own_identity import OwnIdentity
from .patience import check_patience
from .permission import Permission
from .relays.relay_connection import RelayConnection
from .requesting import may_try_again, open_on_any_session
from .requests import StreamRequests
from .session import ClientSession
from .sessions import DELIVERY_SECONDS, Sessions
from .snapshots import client_snapshot
from .stream_events import StreamReports
from .string_in_use import StringInUse
from .upgrades import Upgrades

#: The default memory budget: the bytes that all clients of this process together may use for receive windows, and for
#: data that is being sent.
_PROCESS_BUDGET = Budget(1 << 30)
#: How long closing a client may take (seconds): its streams deliver their last bytes, then its sessions end.
_CLOSE_SECONDS = DELIVERY_SECONDS + 3.0


class Client:
    """Opens streams to the target of one hybrid connection. Made by `open_client`.

    Args:
        config: see `ClientConfig`.
        nursery: runs the tasks of the client.
        transports: by name; None means those that are installed.
        events: the stream to which events are published; None means one that writes them to the log.
        clock: returns seconds since 1970.

    Raises:
        ConfigurationError, DeniedByPolicy: see `open_client`.
    """

    def __init__(
        self,
        config: ClientConfig,
        nursery: trio.Nursery,
        *,
        transports: Mapping[str, Transport] | None = None,
        events: EventStream | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._counters = ClientCounters()
        #: The events of this client alone; `events` may be shared with other clients.
        self._events = EventStream((logged_events() if events is None else events).publish, self._counters)
        string = config.string
        string.require_identity()
        self._permission = Permission(
            WatchedPolicy.shared(config.policy_directories),
            self._events,
            runs_application=config.runs_application,
            ended=self._end_denied,
        )
        self._permission.check(string)
        self._clock = clock
        end_to_end = EndToEnd.from_connection_string(string)
        self._nursery = nursery
        self._string = StringInUse(
            config,
            check=self._permission.check,
            new_link=partial(
                RelayLink,
                role=control.PeerRole.CLIENT,
                instance=new_instance(),
                mode=config.mode,
                dialer=config.dialer,
                transports=transports,
                events=self._events,
            ),
            new_relay=partial(
                RelayConnection,
                nursery=nursery,
                clock=clock,
                on_draining=self._draining,
                witnessing=None if config.audit is None else config.audit.witnessing,
                events=self._events,
            ),
            changed=self._string_changed,
            nursery=nursery,
            events=self._events,
            clock=clock,
        )
        #: Stores what is received for the connection string. `StringKeeper.unkept`: what a restart would lose.
        self.keeper = self._string.keeper
        self._relays = self._string.relays
        self._sessions = Sessions(
            self.connection,
            self._relays,
            end_to_end,
            nursery,
            # A connector opens no streams.
            config=attrs.evolve(
                DATA_CONFIG,
                resume_deadline=config.resume_deadline,
                max_streams=0,
                features=Feature.ISSUE | Feature.DATAGRAMS,
            ),
            budget=_PROCESS_BUDGET if config.budget is None else config.budget,
            events=self._events,
        )
        self._upgrades = Upgrades(self._sessions, self._events)
        self._control_channel_keeper = ControlChannelKeeper(self._relays, self._sessions)
        self._follower = Follower(string, self._relays, self._sessions, self._events)
        #: The identity, and its renewal.
        self.identity = OwnIdentity(
            lambda: self._string.current,
            self._use_identity,
            keep_string=self.keeper,
            shares_file=config.keep_string is keep_in_own_file,
            use_renewed=config.use_renewed,
            renews_identity=config.renews_identity,
            events=self._events,
            clock=clock,
        )
        self._open_patience = config.open_patience
        #: The streams that applications have requested. Public because the code that serves local ports (`ingress/`)
        #: publishes the events of its streams itself.
        self.requests = StreamRequests(lambda: self._string.current, self._counters, self._sessions.describe)
        self._opener = SessionOpener(
            nursery, self._open_session, replaced=lambda replaced: nursery.start_soon(self._sessions.finish, replaced)
        )
        self._other_connectors = OtherConnectors(
            self._opener,
            nursery,
            lambda instances: self._open_session(other_than=instances),
            connection=lambda: self.connection,
            events=self._events,
        )
        self._reports = StreamReports(
            self._events,
            self.requests,
            self._sessions.serial_of,
            self._counters,
            refused=self._other_connectors.refused,
        )

    def __repr__(self) -> str:
        hosts = ", ".join(self.connection_string.hosts)
        return f"<Client {self.connection} at {hosts}, {self.route or 'not connected'}>"

    @property
    def connection(self) -> str:
        """The name of the hybrid connection."""
        return self._string.current.entity_path

    @property
    def connection_string(self) -> ConnectionString:
        """The connection string in use: with the key, the relays and the pins that `update` or a relay has given."""
        return self._string.current

    @property
    def events(self) -> EventStream:
        """The events of this client, to which programs may subscribe."""
        return self._events

    @property
    def report(self) -> Report | None:
        """The report of the prober's last run that has found the route to use; None before that.

        It is about the relay in use. If no relay is in use, it is about the relay that is tried first."""
        session = self._opener.open
        relay = self._relays.in_order()[0] if session is None else session.channel.relay
        return relay.link.report

    @property
    def route(self) -> str | None:
        """The route in use (``tcp``, ``wss``, ``ws``), or None."""
        session = self._opener.open
        return None if session is None else session.channel.candidate.route.name

    @property
    def relay(self) -> str | None:
        """The host of the relay in use, or None."""
        session = self._opener.open
        return None if session is None else session.channel.relay.link.host

    @property
    def listening(self) -> tuple[str, ...]:
        """The local addresses of a forward that uses this client."""
        return self._permission.listening

    @property
    def left_out(self) -> tuple[str, ...]:
        """The ports of the local name on which a forward that uses this client could not listen."""
        return self._permission.left_out

    def set_listening(self, addresses: Sequence[str], *, left_out: Sequence[str] = ()) -> None:
        """Set at which local addresses a forward that uses this client listens, for policy and status.

        Args:
            addresses: all of them, with their ports.
            left_out: the ports of the local name on which it could not listen.

        Raises:
            DeniedByPolicy: the policy of the machine does not allow listening there. Nothing was changed.
        """
        self._permission.set_listening(self._string.current, addresses, left_out)

    @property
    def open_stream_count(self) -> int:
        """The number of streams that have not ended, in all sessions."""
        return self._sessions.stream_count

    @property
    def update_status(self) -> UpdateStatus | None:
        """The last update of the connection string; None if there was none."""
        return self._string.update_status

    @property
    def is_connected(self) -> bool:
        """Whether a stream can be opened without waiting for a session."""
        return self._opener.open is not None

    @property
    def open_patience(self) -> float:
        """How long a stream waits for a session by default, in seconds."""
        return self._open_patience

    def snapshot(self, *, max_sessions: int = MAX_LISTED, max_streams: int = MAX_LISTED) -> EndpointSnapshot:
        """Return the client's current state. Call it in the client's Trio run.

        Args:
            max_sessions, max_streams: the most that are listed; the oldest come first.

        It takes time in proportion to the number of streams.
        """
        return client_snapshot(
            self,
            self._relays,
            self._sessions,
            self._opener,
            self._counters,
            max_sessions=max_sessions,
            max_streams=max_streams,
            clock=self._clock,
        )

    async def connect(self, *, patience: float | None = None) -> Session:
        """Return the session for new streams, at once if there is one.

        Otherwise a session is opened; all waiting callers share the attempts. A session that has lost its channel has
        three seconds to resume; after that, another one is opened in parallel for new streams. If there are several
        relays, the first that leads to a connector is used. If a remembered route fails, routes are probed again,
        once.

        If cancelled, the caller stops waiting; the attempt continues if other callers wait for it.

        Args:
            patience: for how many seconds to repeat attempts that fail for a temporary reason. None means the
                client's `open_patience`; 0 means a single attempt.

        Raises:
            RelayUnreachable: no route to any relay works.
            RelayIdentityError: what answers is not the relay.
            AuthorizationError: the relay refuses the key; `reason` says why.
            RendezvousError: no connector is listening, or the one that accepted did not open its data channel.
            PeerIdentityError: client and connector do not accept each other.
            DeniedByPolicy: the policy of this machine does not allow using the hybrid connection.
            StreamRefused: too many streams are already waiting for a session (`Reason.LIMIT`).
            trio.ClosedResourceError: the block of `open_client` has ended.

        If several relays fail in different ways, the error names each with its reason, and has the type of the
        failure that came closest to success. Errors that waiting cannot change are raised without waiting.
        """
        return (await self._opener.get(self._deadline(patience))).session

    def _deadline(self, patience: float | None) -> float:
        return trio.current_time() + (self._open_patience if patience is None else check_patience(patience))

    async def _aclose(self) -> None:
        self.identity.stop()
        self._opener.close()
        try:
            await self._sessions.aclose()
        finally:
            self._reports.close()

    # --- background: keeping sessions on the best route

    async def watch(self) -> None:
        """Do what is done in the background, until cancelled: move to better routes, notice sleep and changes of
        network, renew old data channels and the identity, keep control channels open, and watch the policy. Only
        `open_client` calls this."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._upgrades.run, self._relays.all)
            nursery.start_soon(report_left_out)
            nursery.start_soon(watch_network, self._network_changed)
            nursery.start_soon(self._sessions.renew)
            nursery.start_soon(self._follower.run)
            nursery.start_soon(self._control_channel_keeper.run)
            nursery.start_soon(self._permission.watch, lambda: self._string.current)
            nursery.start_soon(self.identity.watch_expiry)
            nursery.start_soon(self.identity.renew, self)
            nursery.start_soon(keep_trying, lambda: [self.keeper])

    def credentials(self) -> tuple[CredentialSnapshot, ...]:
        """Return what expires in the connection string."""
        return self.identity.credentials()

    async def _use_identity(self, _: ConnectionString, renewed: ConnectionString) -> None:
        """Use a renewed identity for new streams. Those that are open continue in their sessions, which keep the
        earlier one.

        Raises:
            HybridRelayError: no session can be opened with it. The earlier identity stays in use.
        """
        identity = renewed.identity
        end_to_end = EndToEnd.from_connection_string(attrs.evolve(self._string.current, identity=identity))
        opened = await self._open_session(end_to_end)
        # From here on nothing can fail. The key may have changed in the meantime.
        self._string.use_identity(identity)
        self.identity.changed()
        self._sessions.use(end_to_end)
        self._opener.replace(opened)

    def _end_denied(self) -> None:
        """End everything that is open, because the policy of the machine no longer allows it."""
        for one in list(self._sessions):
            one.session.close(Reason.DENIED_BY_POLICY)
        for relay in self._relays.all:
            relay.close_control()

    def _draining(self, relay: RelayConnection) -> None:
        for session in self._sessions:
            self._nursery.start_soon(session.leave, relay)

    def _network_changed(self, what: str) -> None:
        self._events.publish(NetworkChanged(detail=what))
        for relay in self._relays.all:
            relay.network_changed()
        self._sessions.check_alive()

    # --- another connection string

    def refresh(self) -> None:
        """Use the current connection string again, so that what relays have refused is requested again at once.

        This includes the key or the update that a relay has given, even if that could not be stored.

        Raises:
            ConfigurationError: see `update`.
        """
        self._string.use(self._string.current)

    def update(self, connection_string: str | ConnectionString) -> StringUpdate:
        """Use a changed connection string from now on: another key, other relays, other pins. Open streams continue.
        (A signed *update* from the authority also has this effect, but this method accepts any string.)

        Sessions that depend on the earlier key, or use a relay that is no longer named, move to another data channel
        in the background, without a pause. An event (`KeyInUse`) says when nothing uses the earlier key, so that it
        can be regenerated. If a relay refuses the new key, the earlier one stays in use there.

        Args:
            connection_string: an application's, for the same hybrid connection; as text or parsed.

        Returns:
            Which changes are in use now, and which need a restart.

        Raises:
            ConnectionStringError: the text is malformed.
            ConfigurationError: the string cannot be used here. Nothing was changed.
        """
        string = to_connection_string(connection_string)
        update = self._string.use(string)
        self.keeper.given(string)
        return update

    def _string_changed(self, update: StringUpdate) -> None:
        self._upgrades.replace(self._relays.all)
        self._follower.use(update.string, key_changed=update.key_changed)

    # --- streams

    async def open_stream(
        self, *, port: int | None = None, wait_opened: bool = True, patience: float | None = None
    ) -> MuxStream:
        """Open a stream to the target, and return when the connector has connected to the target.

        If cancelled, the connector abandons its attempt to connect, too. Publishes `StreamRequested`, and exactly one
        `StreamClosed` or `StreamNotOpened`, whatever ends the stream.

        Args:
            port: which port of the target, if the hybrid connection has several. None means the first one.
            wait_opened: if False, return as soon as the connector has been asked. Up to 16 KiB can then be sent
                without waiting for a round trip; if the connector or the target refuses, the stream breaks
                (`MuxStream.wait_opened` raises the reason). `MuxStream.aclose` says what happens to what was sent if
                the stream is closed before the connector has answered.
            patience: how long to wait for a session, in seconds; see `connect`.

        Raises:
            StreamRefused: the target or the connector refused the stream; `reason` says which and why.
            HybridRelayError: no session could be opened; see `connect`.
            ValueError: `port` is not a port number.
        """
        with self._reports.request(port) as follow:
            stream = await self.request_stream(port=port, wait_opened=wait_opened, patience=patience)
            follow(stream)
        return stream

    async def request_stream(
        self, *, port: int | None = None, wait_opened: bool = True, patience: float | None = None
    ) -> MuxStream:
        """Like `open_stream`, for callers that publish the events of the stream themselves."""
        metadata = port_metadata(port)
        return await open_on_any_session(
            self._opener,
            self._other_connectors,
            lambda session: session.open_stream_nowait(metadata=metadata),
            deadline=self._deadline(patience),
            wait_opened=wait_opened,
        )

    async def find_other_connector(self, refusal: StreamRefused, stream: MuxStream | DatagramFlow) -> bool:
        """If the connector could not connect to the target for a stream, look for another connector.

        Returns:
            Whether another session may accept the stream. If so, the target has received nothing of what was sent on
            the stream that was refused.
        """
        return await self._other_connectors.find(stream, refusal.reason)

    def request_stream_nowait(self, *, port: int | None = None) -> MuxStream | None:
        """Like `request_stream` without `wait_opened`, but return None if that has to wait: for a session, or because
        very many streams wait for an answer.

        Raises:
            StreamRefused: the session refuses the stream; see `may_try_again`.
        """
        opened = self._opener.open
        if opened is None or not opened.session.unanswered.may_open_now:
            return None
        return opened.session.open_stream_nowait(metadata=port_metadata(port))

    async def open_flow(
        self,
        *,
        port: int | None = None,
        wait_opened: bool = True,
        patience: float | None = None,
        application: Callable[[], str] = str,
    ) -> DatagramFlow:
        """Open a flow of datagrams to the target, and return when the connector has accepted it.

        The hybrid connection's target has to be one for datagrams (``dns.corp:53/udp``). Events and cancellation are
        as for `open_stream`. The caller closes the flow; the connector ends one that is idle, and one on which
        nothing was sent for five minutes, whatever the target sends.

        Args:
            port, patience: as for `open_stream`.
            wait_opened: if False, return as soon as the connector has been asked. Datagrams can then be sent without
                waiting for a round trip; if the connector refuses, the flow breaks (`DatagramFlow.wait_opened`
                raises the reason).
            application: returns the address of the application, for the status; an empty text if it is not known.

        Raises:
            StreamRefused, HybridRelayError, ValueError: as for `open_stream`. If the connector supports, or the
                target accepts, only streams, the reason is `Reason.KIND_NOT_OFFERED`.
        """
        metadata = port_metadata(port)
        with self._reports.request_flow(application, port) as follow:
            flow = await open_on_any_session(
                self._opener,
                self._other_connectors,
                lambda session: session.open_flow_nowait(metadata=metadata),
                deadline=self._deadline(patience),
                wait_opened=wait_opened,
            )
            follow(flow)
        return flow

    def stream_id_of(self, stream: MuxStream) -> str:
        """Return the id of a stream of this client in the connector's events."""
        return self._reports.id_of(stream)

    @staticmethod
    def may_try_again(refusal: StreamRefused) -> bool:
        """Return whether another session may accept the stream, because connector and target have not refused it."""
        return may_try_again(refusal)

    async def _open_session(
        self, end_to_end: EndToEnd | None = None, *, other_than: Collection[str] = ()
    ) -> ClientSession:
        """Open a session.

        Args:
            end_to_end: with an identity to use instead of the one in use; None means the one in use.
            other_than: instances of connectors that are not acceptable.
        """
        self._permission.check(self._string.current)
        with self._follower.opening():
            opened = await self._sessions.open(end_to_end, other_than=other_than)
        try:
            # The policy may have changed in the meantime, which has ended only the sessions that existed.
            self._permission.check(self._string.current)
        except DeniedByPolicy:
            opened.session.close(Reason.DENIED_BY_POLICY)
            raise
        self._follower.opened(opened)
        return opened


@asynccontextmanager
async def open_client(
    config: ClientConfig | ConnectionString | str,
    *,
    transports: Mapping[str, Transport] | None = None,
    events: EventStream | None = None,
) -> AsyncIterator[Client]:
    """``async with open_client(text) as client``: streams to the target of a hybrid connection.

    Nothing is connected before the first `Client.open_stream` or `Client.connect`. At the end of the block, streams
    that were closed have up to ten seconds to deliver their last bytes, and those still open are reset; the same
    holds if the block is cancelled. A single exception leaves the block as it is, not inside an exception group.

    Args:
        config: an application's connection string, as text or parsed; or a `ClientConfig` with one.
        transports: by name; None means those that are installed.
        events: the stream to which events are published; None means one that writes them to the log.

    Raises:
        ConnectionStringError: the text is malformed; `part` names the field.
        DeniedByPolicy: the policy of this machine does not allow using the hybrid connection.
        ConfigurationError: it is a connector's string, its identity is damaged, the mode is unknown, the policy of
            the machine cannot be read, or the environment names an unusable proxy.
    """
    if not isinstance(config, ClientConfig):
        config = ClientConfig(config)
    async with FlatNursery() as nursery:
        client = Client(config, nursery, transports=transports, events=events)
        try:
            nursery.start_soon(client.watch)
            yield client
        finally:
            # Closing also takes place if the block was cancelled, so it is shielded and has a deadline of its own.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_SECONDS):
                await client._aclose()
            nursery.cancel_scope.cancel()
