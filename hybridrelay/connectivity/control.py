"""A control channel from the dialing side: TLS to the relay, a session, one stream of control messages."""

from __future__ import annotations

import itertools
from functools import partial

import attrs
import trio

from .._nursery import FlatNursery
from .._version import __version__
from ..abc import Dialer
from ..errors import RelayUnreachable, SessionError
from ..mux import DIALED_CONTROL_CONFIG, MuxStream, Session, SessionRole
from ..protocol import RemoteProtocolError, control
from ..protocol.reasons import Reason
from ..security import spki_pin
from .channel import open_control_stream
from .dialing import DIRECTLY
from .discovery import Candidate
from .endpoint import RelayEndpoint
from .instance import OwnInstance
from .interception import OuterCertificate

#: From the relay's certificate to its `Welcome` (seconds).
WELCOME_SECONDS = 10.0
#: For the relay's answer to a request: it may ask several listeners, each of which has a second.
REQUEST_SECONDS = 20.0
#: How many messages that answer no request may wait to be handled: as many as a relay can have open rendezvous, about
#: 5 MiB. Protects the memory from a relay that sends without end.
MAX_UNHANDLED = 8192
SOFTWARE = f"hybridrelay/{__version__}"


@attrs.define(eq=False)
class _Request:
    """A request that waits for its answer."""

    message: control.Register | control.Join
    answer: control.Registered | control.Joined | control.Failed | None = None
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
        #: The generation that this process has stated over it.
        self.generation = generation
        #: Its route, which need not be the one that would be chosen now.
        self.candidate = candidate
        #: Identifies the relay and its present run, by whatever name it was reached: the pin of its key, which it has
        #: proved to hold, and its instance, which alone could be copied.
        self.relay = pin, welcome.relay_instance
        #: The pins of the relay's outer certificates, as stated by the relay.
        self.outer_pins = welcome.outer_pins
        #: The issuer of the certificate of whatever intercepts the outer TLS; None if nothing does as far as known.
        self.intercepted_by = None if certificate is None else certificate.intercepted_by(welcome.outer_pins)
        self._stream = stream
        self._ids = itertools.count(1)
        #: Requests that have not been answered, or whose answer has not been taken.
        self._requests: dict[int, _Request] = {}
        self._messages_in, messages = trio.open_memory_channel[control.Message](MAX_UNHANDLED)
        #: Messages that answer no request: `Offer`, `Ended`, `Draining`. Ends with the channel. `Registered` is here
        #: as well as being an answer, because it divides the offers into those before and those after it.
        self.messages: trio.abc.ReceiveChannel[control.Message] = messages
        #: It is over; what was sent last may not have arrived.
        self.has_ended = False
        self._sending = trio.Lock()

    def next_id(self) -> int:
        """An id for a request, unique on this channel."""
        return next(self._ids)

    def close(self) -> None:
        """End the channel; callers that wait for an answer get an error that it is lost."""
        self._session.close()

    def check_alive(self) -> None:
        """Ask the relay at once whether it is there; see `Session.check_alive`."""
        self._session.check_alive()

    async def send(self, message: control.Message) -> None:
        """Send a message that is not answered.

        Raises:
            RelayUnreachable: the channel is lost.
        """
        try:
            async with self._sending:
                await self._stream.send_whole(control.encode_message(message))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise _lost() from exc

    async def register(self, message: control.Register) -> control.Registered | control.Failed:
        """Ask to register, and wait for the answer.

        Raises:
            RelayUnreachable: the channel was lost meanwhile, or the relay did not answer in time. If it answered
                with something else, the channel is lost.
        """
        answer = await self._request(message)
        assert not isinstance(answer, control.Joined), "checked when it was delivered"
        return answer

    async def join(self, message: control.Join) -> control.Joined | control.Failed:
        """Ask to join, and wait for the answer. Raises as `register`."""
        answer = await self._request(message)
        assert not isinstance(answer, control.Registered), "checked when it was delivered"
        return answer

    async def _request(
        self, message: control.Register | control.Join
    ) -> control.Registered | control.Joined | control.Failed:
        request = self._requests[message.id] = _Request(message)
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

    async def _serve(self, decoder: control.ControlDecoder, early: list[control.Message | control.Unknown]) -> None:
        """Dispatch messages until the channel ends."""
        try:
            for message in early:
                self._deliver(message)
            while data := await self._stream.receive_some():
                for message in decoder.receive_data_untrusted(data):
                    self._deliver(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the session's outcome says why
        finally:
            self.has_ended = True
            self._messages_in.close()
            for request in self._requests.values():
                request.over.set()

    def _deliver(self, message: control.Message | control.Unknown) -> None:
        match message:
            case control.Registered(id=id_) | control.Joined(id=id_) | control.Failed(id=id_):
                if (request := self._requests.get(id_)) is not None:
                    if request.answer is not None:
                        raise RemoteProtocolError("the relay answered twice")
                    if not _is_answer(message, request.message):
                        raise RemoteProtocolError("the relay answered with the answer to another kind of request")
                    request.answer = message
                    request.over.set()
                    if isinstance(message, control.Registered):
                        self._pass_on(message)
            case control.Offer() | control.Ended() | control.Draining():
                self._pass_on(message)
            case _:
                pass  # from a newer relay, or without a meaning in this direction

    def _pass_on(self, message: control.Message) -> None:
        try:
            self._messages_in.send_nowait(message)
        except trio.WouldBlock:
            raise RemoteProtocolError("the relay sends messages faster than they can be handled") from None


def _is_answer(
    message: control.Registered | control.Joined | control.Failed, request: control.Register | control.Join
) -> bool:
    """Whether the message may be the answer to such a request. `control.Failed` may be the answer to any."""
    return not isinstance(message, control.Joined if isinstance(request, control.Register) else control.Registered)


def _lost() -> RelayUnreachable:
    return RelayUnreachable("the control channel to the relay was lost", reason=Reason.SESSION_LOST)


@attrs.frozen
class Introduction:
    """How this process introduces itself to a relay."""

    role: control.PeerRole
    instance: OwnInstance
    #: Greater on each control channel of this instance.
    generation: int

    def hello(self) -> control.Hello:
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
    """Open a control channel and serve it; `task_status.started` gives it once the relay has said `Welcome`.

    Returns when the channel is lost or the relay ends it. Cancelled, the channel is closed.

    Raises:
        RelayUnreachable: before it started: no channel, or something that is no relay.
        RelayIdentityError: likewise: the relay's certificate is not the right one.
    """
    certificates: list[bytes] = []
    tls = await open_control_stream(endpoint, candidate, dialer=dialer, on_outer_certificate=certificates.append)
    certificate = OuterCertificate.from_der_untrusted(certificates[-1]) if certificates else None
    session = Session(SessionRole.INITIATOR, config=DIALED_CONTROL_CONFIG)
    started = False
    try:
        async with FlatNursery() as nursery:
            await nursery.start(partial(session.run, tls, greeting_timeout=WELCOME_SECONDS))
            stream = session.open_stream_nowait()
            decoder = control.ControlDecoder()
            with trio.fail_after(WELCOME_SECONDS):
                await stream.send_all(control.encode_message(introduction.hello()))
                welcome, early = await _receive_welcome(stream, decoder)
            shown = tls.getpeercert(binary_form=True)
            assert shown is not None
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
        # Once it has started, loss is how a control channel usually ends: no error, its owner opens another.
        if not started:
            raise RelayUnreachable(f"the relay's control channel failed: {exc}", reason=exc.reason) from exc
    except (trio.BrokenResourceError, trio.TooSlowError) as exc:
        if not started:
            raise RelayUnreachable(f"the relay's control channel failed: {exc}", reason=Reason.SESSION_LOST) from exc


async def _receive_welcome(
    stream: MuxStream, decoder: control.ControlDecoder
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
            raise RemoteProtocolError("the relay's first message is not its welcome")
        return welcome, messages[1:]
