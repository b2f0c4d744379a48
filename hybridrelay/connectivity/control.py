"""The dialing side of a control channel: TLS to the relay, a session, and one stream of control messages in it."""

from __future__ import annotations

import itertools
from functools import partial

import attrs
import trio

from .._nursery import FlatNursery
from .._value import Value
from .._version import __version__
from ..abc import Dialer
from ..audit.chain import Checkpoint
from ..errors import RelayUnreachable, SessionError
from ..mux import DIALED_CONTROL_CONFIG, MuxStream, Session, SessionRole
from ..protocol import RemoteProtocolError, control
from ..protocol.config import KIB
from ..protocol.control_codec import ControlDecoder, encode_message
from ..protocol.reasons import Reason
from ..security import spki_pin
from .channel import open_control_stream
from .dialing import DIRECTLY
from .discovery import Candidate
from .endpoint import RelayEndpoint
from .instance import OwnInstance
from .interception import OuterCertificate

#: The time for the session's greeting, and again for the relay's `Welcome` (seconds).
WELCOME_SECONDS = 10.0
#: The time for the relay's answer to a request (seconds). The relay may offer a join to eight listeners, one after
#: the other, for up to a second each. During the first five seconds, an offer may wait for its turn.
REQUEST_SECONDS = 20.0
#: How many messages that answer no request may wait to be handled: the largest number of open rendezvous of a relay.
#: They take about 5 MiB, and the updates among them 3 MiB more. This limits the memory that a relay can use up.
MAX_UNHANDLED = 8192
#: An `Update`, which has up to 6 KiB, is dropped if this many messages are already waiting: the relay repeats it.
MAX_UNHANDLED_BEFORE_UPDATE = 512
_FIRST_CHECK_ID = 2**48
#: How much is decoded before other tasks may run (bytes).
_READ_BYTES = 8 * KIB
SOFTWARE = f"hybridrelay/{__version__}"


@attrs.define(eq=False)
class _Request:
    """A request that waits for its answer."""

    message: control.Register | control.Join | control.Take | control.Check | control.Witness
    answer: (
        control.Registered
        | control.Joined
        | control.Taken
        | control.Checked
        | control.Witnessed
        | control.Failed
        | None
    ) = None
    #: The parts of a claim's content that have arrived so far.
    parts: list[str] = attrs.field(factory=list[str])
    #: Set when the answer has arrived, or can no longer arrive.
    over: trio.Event = attrs.field(factory=trio.Event)


class ControlChannel:
    """An open control channel. Made by `run_control_channel`."""

    def __init__(
        self,
        session: Session,
        stream: MuxStream,
        welcome: control.Welcome,
        candidate: Candidate,
        certificate: OuterCertificate | None = None,
        *,
        pin: str = "",
        generation: int = 0,
    ) -> None:
        self._session = session
        #: The generation that this process has stated over the channel.
        self.generation = generation
        #: The channel's route, which need not be the one that would be chosen now.
        self.candidate = candidate
        #: Identifies the relay and its current run, whatever host name was used: the pin of its public key, which TLS
        #: has proved, and its instance, which the relay only states.
        self.relay = pin, welcome.relay_instance
        #: The pins of the relay's outer certificates, as stated by the relay.
        self.outer_pins = welcome.outer_pins
        #: The issuer of the certificate with which the outer TLS is intercepted; None if no interception is known.
        self.intercepted_by = None if certificate is None else certificate.intercepted_by(welcome.outer_pins)
        self._stream = stream
        self._ids = itertools.count(1)
        #: For `check` and `witness`. Far from the ids that the registration machine of a connector gives its own
        #: requests over the channel.
        self._check_ids = itertools.count(_FIRST_CHECK_ID)
        #: Requests that have not been answered, or whose answer has not been taken.
        self._requests: dict[int, _Request] = {}
        self._messages_in, messages = trio.open_memory_channel[control.Message](MAX_UNHANDLED)
        #: Messages that answer no request: `Offer`, `Ended`, `Draining`, `Key`, `Update`. Ends with the channel.
        #: `Registered`, although it answers a request, is here as well: offers before it belong to the earlier key,
        #: and those after it to the new one.
        self.messages: trio.abc.ReceiveChannel[control.Message] = messages
        #: Whether the channel has ended. The last messages that were sent may not have arrived.
        self.has_ended = False
        self._sending = trio.Lock()
        #: What the relay sends counts in these turns: when it arrives, and when it is handled.
        self.turns = session.turns

    def next_id(self) -> int:
        """Return an id for a request, unique on this channel."""
        return next(self._ids)

    def close(self) -> None:
        """End the channel; callers that wait for an answer get `RelayUnreachable`."""
        self._session.close()

    def check_alive(self) -> None:
        """Send a ping to the relay at once; see `Session.check_alive`."""
        self._session.check_alive()

    async def send(self, message: control.Message) -> None:
        """Send a message that needs no answer.

        Raises:
            RelayUnreachable: the channel is lost.
        """
        try:
            async with self._sending:
                await self._stream.send_whole(encode_message(message))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise _lost() from exc

    async def register(self, message: control.Register) -> control.Registered | control.Failed:
        """Ask to register, and wait for the answer.

        Raises:
            RelayUnreachable: the channel was lost before the answer arrived, or the relay did not answer in time. An
                answer to another kind of request ends the channel.

        If cancelled, a later answer is ignored.
        """
        answer = await self._request(_Request(message))
        assert isinstance(answer, control.Registered | control.Failed), "checked when it was delivered"
        return answer

    async def join(self, message: control.Join) -> control.Joined | control.Failed:
        """Ask to join, and wait for the answer. Errors and cancellation are as for `register`."""
        answer = await self._request(_Request(message))
        assert isinstance(answer, control.Joined | control.Failed), "checked when it was delivered"
        return answer

    async def check(self, connection: str, token: str) -> control.Checked | control.Failed:
        """Ask whether the relay accepts a token. Errors and cancellation are as for `register`."""
        answer = await self._request(_Request(control.Check(next(self._check_ids), connection, token)))
        assert isinstance(answer, control.Checked | control.Failed), "checked when it was delivered"
        return answer

    async def witness(self, connection: str, checkpoint: Checkpoint) -> control.Witnessed | control.Failed:
        """Ask the relay to keep a checkpoint of this program's audit log.

        A relay of an earlier version does not answer. Errors and cancellation are as for `register`.

        Args:
            connection: a hybrid connection for which the relay has accepted a token over this channel.
            checkpoint: the checkpoint, with its signature.
        """
        message = control.Witness(
            next(self._check_ids),
            connection,
            checkpoint.log_id,
            checkpoint.seq,
            checkpoint.head,
            checkpoint.at,
            checkpoint.key,
            checkpoint.signature,
        )
        answer = await self._request(_Request(message))
        assert isinstance(answer, control.Witnessed | control.Failed), "checked when it was delivered"
        return answer

    async def take(self, message: control.Take) -> bytes | control.Failed:
        """Take a claim, and return its sealed content. Errors and cancellation are as for `register`.

        If an error is raised or it is cancelled, the relay may already have deleted the content.
        """
        request = _Request(message)
        answer = await self._request(request)
        return answer if isinstance(answer, control.Failed) else bytes.fromhex("".join(request.parts))

    async def _request(
        self, request: _Request
    ) -> control.Registered | control.Joined | control.Taken | control.Checked | control.Witnessed | control.Failed:
        message = request.message
        self._requests[message.id] = request
        try:
            with trio.move_on_after(REQUEST_SECONDS):
                await self.send(message)
                if not self.has_ended:
                    await request.over.wait()
                if request.answer is None:
                    raise _lost()
                return request.answer
            raise RelayUnreachable("the relay did not answer in time", reason=Reason.PEER_SILENT)
        finally:
            del self._requests[message.id]

    async def _serve(self, decoder: ControlDecoder, early: list[control.Message | control.Unknown]) -> None:
        """Dispatch messages until the channel ends."""
        try:
            for message in early:
                self._deliver(message)
            while data := await self._stream.receive_some(_READ_BYTES):
                if self.turns.begin():
                    await self.turns.next()
                for message in decoder.receive_data_untrusted(data):
                    self._deliver(message)
                    if self.turns.use(1, 0):
                        await self.turns.next()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the reason is in the session's outcome
        finally:
            self.has_ended = True
            self._messages_in.close()
            for request in self._requests.values():
                request.over.set()

    def _deliver(self, message: control.Message | control.Unknown) -> None:
        match message:
            case (
                control.Registered(id=id_)
                | control.Joined(id=id_)
                | control.Checked(id=id_)
                | control.Witnessed(id=id_)
                | control.Failed(id=id_)
            ):
                if (request := self._requests.get(id_)) is not None:
                    if request.answer is not None:
                        raise RemoteProtocolError("the relay answered twice")
                    if not _is_answer(message, request.message):
                        raise RemoteProtocolError("the relay's answer belongs to another kind of request")
                    request.answer = message
                    request.over.set()
                    if isinstance(message, control.Registered):
                        self._pass_on(message)
            case control.Taken(id=id_):
                if (request := self._requests.get(id_)) is not None:
                    self._take_part(request, message)
            case control.Update():
                if self._messages_in.statistics().current_buffer_used < MAX_UNHANDLED_BEFORE_UPDATE:
                    self._pass_on(message)
            case control.Offer() | control.Ended() | control.Draining() | control.Key():
                self._pass_on(message)
            case _:
                pass  # a message of a newer relay, or one that has no meaning in this direction

    def _take_part(self, request: _Request, part: control.Taken) -> None:
        if not isinstance(request.message, control.Take) or request.answer is not None:
            raise RemoteProtocolError("the relay delivers a claim that was not asked for")
        if part.number != len(request.parts):
            raise RemoteProtocolError("a part of a claim is missing")
        request.parts.append(part.sealed)
        if part.number + 1 == part.count:
            request.answer = part
            request.over.set()

    def _pass_on(self, message: control.Message) -> None:
        try:
            self._messages_in.send_nowait(message)
        except trio.WouldBlock:
            raise RemoteProtocolError("the relay sends messages faster than they can be handled") from None


def _is_answer(
    message: control.Registered | control.Joined | control.Checked | control.Witnessed | control.Failed,
    request: control.Register | control.Join | control.Take | control.Check | control.Witness,
) -> bool:
    """Return whether the message can be the answer to this request. `control.Failed` can answer any request."""
    match message:
        case control.Registered():
            return isinstance(request, control.Register)
        case control.Joined():
            return isinstance(request, control.Join)
        case control.Checked():
            return isinstance(request, control.Check)
        case control.Witnessed():
            return isinstance(request, control.Witness)
        case control.Failed():
            return True


def _lost() -> RelayUnreachable:
    return RelayUnreachable("the control channel to the relay was lost", reason=Reason.SESSION_LOST)


@attrs.frozen
class Introduction(Value):
    """What this process states about itself to a relay."""

    role: control.PeerRole
    instance: OwnInstance
    #: Greater than that of every earlier control channel of this instance.
    generation: int

    def hello(self) -> control.Hello:
        """Return the first message to the relay. Only connectors send the secret of their instance."""
        secret = self.instance.secret if self.role is control.PeerRole.CONNECTOR else None
        return control.Hello(self.role, self.instance.id, self.generation, SOFTWARE, secret)


async def run_control_channel(
    endpoint: RelayEndpoint,
    candidate: Candidate,
    introduction: Introduction,
    *,
    dialer: Dialer = DIRECTLY,
    task_status: trio.TaskStatus[ControlChannel] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Open a control channel and serve it; `task_status.started` passes it once the relay has sent `Welcome`.

    Returns when the channel is lost, the relay ends it, or `ControlChannel.close` is called. If cancelled, the
    channel is closed.

    Args:
        endpoint: the relay.
        candidate: the route.
        introduction: what to state to the relay.
        dialer: opens what the transport needs.
        task_status: for `nursery.start`.

    Raises:
        RelayUnreachable: before `task_status.started`: no channel could be opened, or what answered is not a relay.
        RelayIdentityError: before `task_status.started`: the relay's certificate is not the right one.
    """
    certificates: list[bytes] = []
    tls = await open_control_stream(endpoint, candidate, dialer=dialer, on_outer_certificate=certificates.append)
    certificate = OuterCertificate.from_der_untrusted(certificates[-1]) if certificates else None
    shown = tls.getpeercert(binary_form=True)
    assert shown is not None
    session = Session.create(SessionRole.INITIATOR, config=DIALED_CONTROL_CONFIG)
    started = False
    try:
        async with FlatNursery() as nursery:
            await nursery.start(partial(session.run, tls, greeting_timeout=WELCOME_SECONDS))
            stream = session.open_stream_nowait()
            decoder = ControlDecoder()
            with trio.fail_after(WELCOME_SECONDS):
                await stream.send_all(encode_message(introduction.hello()))
                welcome, early = await _receive_welcome(stream, decoder)
            channel = ControlChannel(
                session,
                stream,
                welcome,
                candidate,
                certificate,
                pin=spki_pin(shown),
                generation=introduction.generation,
            )
            task_status.started(channel)
            started = True
            await channel._serve(decoder, early)
            session.close()
    except (SessionError, RemoteProtocolError) as exc:
        # After the start, loss is the usual end of a control channel: it is not an error, and the owner opens
        # another.
        if not started:
            raise RelayUnreachable(f"the relay's control channel failed: {exc}", reason=exc.reason) from exc
    except (trio.BrokenResourceError, trio.TooSlowError) as exc:
        if not started:
            raise RelayUnreachable(f"the relay's control channel failed: {exc}", reason=Reason.SESSION_LOST) from exc


async def _receive_welcome(
    stream: MuxStream, decoder: ControlDecoder
) -> tuple[control.Welcome, list[control.Message | control.Unknown]]:
    while True:
        data = await stream.receive_some()
        if not data:
            raise RemoteProtocolError("the relay ended the control stream")
        messages = decoder.receive_data_untrusted(data)
        if not messages:
            continue
        welcome = messages[0]
        if not isinstance(welcome, control.Welcome):
            raise RemoteProtocolError("the relay's first message is not Welcome")
        return welcome, messages[1:]
