"""HELLO: what the two sides of a session tell each other on each channel, and which HELLO is acceptable. SPEC.md,
sections 3 and 5."""

from __future__ import annotations

import hmac

import attrs

from . import frames
from .config import MAX_WRITTEN_AGAIN, SessionConfig
from .delivery import Inbox, Outbox
from .errors import RemoteProtocolError
from .features import NO_FEATURES, Feature, used_features
from .reasons import Reason
from .table import SessionRole

__all__ = ["Greetings"]


@attrs.define(eq=False)
class Greetings:
    """The greetings of one side of a session."""

    role: SessionRole
    config: SessionConfig
    #: Random bytes, from the initiator. The acceptor learns them from HELLO.
    session_id: bytes
    #: Our own random bytes, by which the peer recognizes us on later channels.
    secret: bytes = attrs.field(repr=False)
    #: The epoch of the last channel of the session; -1 before the first.
    epoch: int = -1
    #: The last HELLO of the peer; None before the first.
    peer: frames.Hello | None = None
    #: The features in use: those that both sides offered on the first channel. Empty before the peer's HELLO.
    features: Feature = NO_FEATURES

    def own(self, inbox: Inbox, outbox: Outbox) -> frames.Hello:
        """Return our HELLO for the current channel."""
        initiator = self.role is SessionRole.INITIATOR
        return frames.Hello(
            self.session_id,
            self.secret,
            self.config.max_streams,
            inbox.take_count(),
            outbox.written,
            self.epoch,
            attach=initiator and self.epoch > 0,
            features=self.config.features,
        )

    def attach_refusal(self, hello: frames.Hello) -> Reason | None:
        """Return why the acceptor must not continue the session, which has not ended, on the channel on which `hello`
        came; None if it may."""
        if self.peer is None or not hello.attach:
            return Reason.SESSION_UNKNOWN
        known = hmac.compare_digest(hello.session_id, self.session_id)
        if not (hmac.compare_digest(hello.secret, self.peer.secret) and known):
            return Reason.SESSION_UNKNOWN
        return Reason.SUPERSEDED if hello.epoch <= self.epoch else None

    def check_untrusted(self, hello: frames.Hello, received: int) -> None:
        """Check the peer's HELLO on a new channel. Changes nothing.

        Args:
            hello: the peer's HELLO.
            received: how many counted frames of the peer have arrived.

        Raises:
            RemoteProtocolError: it is not acceptable; `reason` says why.
        """
        if hello.min_version > 1 or hello.version < 1:
            raise RemoteProtocolError("no version in common", reason=Reason.VERSION_MISMATCH)
        resumed = self.peer is not None
        if self.role is SessionRole.ACCEPTOR:
            if resumed or hello.attach:
                refusal = self.attach_refusal(hello)
                if refusal is not None:
                    raise RemoteProtocolError(refusal.describe, reason=refusal)
            elif hello.epoch:
                raise RemoteProtocolError("the first channel of a session has the epoch 0")
        elif not hmac.compare_digest(hello.session_id, self.session_id) or hello.epoch != self.epoch:
            raise RemoteProtocolError("HELLO of another session")
        elif self.peer is not None and not hmac.compare_digest(hello.secret, self.peer.secret):
            # The holder of a copy of the acceptor's certificate, for example.
            raise RemoteProtocolError("HELLO of another acceptor", reason=Reason.SESSION_LOST)
        if hello.written < received or (hello.written and not resumed):
            raise RemoteProtocolError("the peer's counts of frames are inconsistent", reason=Reason.SESSION_LOST)
        if hello.written - received > MAX_WRITTEN_AGAIN:
            raise RemoteProtocolError("the peer states more frames than it can have kept", reason=Reason.SESSION_LOST)

    def use(self, hello: frames.Hello) -> None:
        """Use the peer's HELLO, which was checked."""
        if self.peer is None:
            self.features = used_features(self.config.features, hello.features)
        if self.role is SessionRole.ACCEPTOR:
            self.session_id, self.epoch = hello.session_id, hello.epoch
        self.peer = hello
