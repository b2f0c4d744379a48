"""A peer on a control channel that sends what a test wants, connected to the real relay's end of the channel."""

from __future__ import annotations

import time

import trio

from hybridrelay.events import EventStream
from hybridrelay.mux import CONTROL_CONFIG, MuxStream, Session
from hybridrelay.protocol import RemoteProtocolError, control
from hybridrelay.protocol.control_codec import ControlDecoder, encode_message
from hybridrelay.relay.core.places import Places
from hybridrelay.relay.model import StoreChange
from hybridrelay.relay.service.broker import BrokerService
from hybridrelay.relay.service.control import ControlPeer
from hybridrelay.relay.service.listener_handle import ListenerHandle
from hybridrelay.relay.store.store import Store
from hybridrelay.security import KeySlot, Rule, audience_for, make_token
from hybridrelay.testing import session_pair

from ..keys import key_of

HOST = "relay.example.com"
PATIENCE_SECONDS = 20


def make_broker(
    registry: Store,
    events: EventStream | None = None,
    *,
    pairs: Places[str] | None = None,
    control_channels: Places[ListenerHandle] | None = None,
    holder_secret: bytes | None = None,
) -> BrokerService:
    """A broker that knows what is in the registry now; see `BrokerService` for the arguments."""

    async def refresh() -> None:
        pass

    return BrokerService(
        registry.snapshot(),
        refresh=refresh,
        events=events,
        pairs=pairs,
        control_channels=control_channels,
        holder_secret=holder_secret,
    )


def update(broker: BrokerService, registry: Store) -> None:
    """Inform a broker of what is in the registry now."""
    broker.update(StoreChange.between(broker.authorization.connections, registry.snapshot()))


def token_for(rule: Rule, connection: str = "db", slot: KeySlot = KeySlot.PRIMARY) -> str:
    """Return a token that is valid for a minute."""
    return make_token(audience_for(HOST, connection), rule.name, key_of(rule, slot), expires_at=time.time() + 60)


class FarEnd:
    """A connector or client that sends what the test tells it to. Made by `connect`."""

    def __init__(self, session: Session, stream: MuxStream, peer: ControlPeer) -> None:
        self.session = session
        self.peer = peer
        #: Why the relay has closed the channel; None while it has not.
        self.error: RemoteProtocolError | None = None
        self._stream = stream
        self._decoder = ControlDecoder()
        self._heard: list[control.Message | control.Unknown] = []

    @classmethod
    async def connect(cls, broker: BrokerService, nursery: trio.Nursery, *hello: control.Message) -> FarEnd:
        """Open a control channel; it is served in `nursery`."""
        session, relay_side = await session_pair(nursery, config=CONTROL_CONFIG)
        stream = session.open_stream_nowait()
        await stream.send_all(b"".join(map(encode_message, hello)))
        peer = ControlPeer(broker)
        peer.attach(relay_side, (await relay_side.offers.receive()).accept(), nursery)
        far_end = cls(session, stream, peer)
        nursery.start_soon(far_end._serve)
        return far_end

    async def _serve(self) -> None:
        try:
            while await self.peer.serve_some():
                pass
        except RemoteProtocolError as exc:
            self.error = exc
        except trio.BrokenResourceError:
            pass
        finally:
            self.peer.lost()
            self.session.close()

    async def say(self, *messages: control.Message) -> None:
        await self._stream.send_all(b"".join(map(encode_message, messages)))

    async def hear(self) -> control.Message | control.Unknown:
        """Return the next message. Raises `trio.BrokenResourceError` if the relay has closed the channel."""
        with trio.fail_after(PATIENCE_SECONDS):
            while not self._heard:
                data = await self._stream.receive_some()
                if not data:
                    raise trio.BrokenResourceError("the relay ended the stream")
                self._heard += self._decoder.receive_data_untrusted(data)
        return self._heard.pop(0)

    async def ask(self, message: control.Message) -> control.Message | control.Unknown:
        """Send a message, and return the next one that arrives."""
        await self.say(message)
        return await self.hear()


def hello_of(
    secret: str, *, generation: int = 1, instance: str | None = None, shown: str | None = ""
) -> control.Hello:
    """Return a connector's hello. `shown`: a secret to present instead of its own; None: it presents none."""
    instance = control.instance_of(secret) if instance is None else instance
    return control.Hello(control.PeerRole.CONNECTOR, instance, generation, "test", secret if shown == "" else shown)


def client_hello() -> control.Hello:
    """Return a client's hello."""
    return control.Hello(control.PeerRole.CLIENT, "c" * 32, 1, "test")
