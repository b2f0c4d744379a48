"""Asking a connector for an identity, over a stream of the kind *issue*."""

from __future__ import annotations

from typing import Protocol

import trio

from ..errors import PeerIdentityError, RendezvousError, StreamRefused
from ..mux import Kind, MuxStream, Session
from ..protocol.issuing import MAX_ISSUE_ANSWER, Issued, IssueRefused, IssueRequest, parse_issue_answer_untrusted
from ..protocol.reasons import Reason
from ..security import Secret, make_request

__all__ = ["request_identity"]

#: How long the answer may take (seconds), once there is a session.
ANSWER_SECONDS = 30.0
_REMEDIES = {
    Reason.KIND_NOT_OFFERED: (
        "give every connector of the hybrid connection an issuer (hybridrelay connections issuer --help), and a "
        "version of hybridrelay that supports issuers"
    ),
    Reason.CLAIM_USED: (
        "tell the administrator at once: somebody else has the code of this claim. The administrator then denies the "
        "label at the connector, regenerates the key of the rule, and creates another claim"
    ),
    Reason.IDENTITY_EXPIRED: "compare the clocks of both machines; if they are right, ask for a new claim",
    Reason.ISSUE_REFUSED: "the log of the connector says why (identity.not-issued)",
    Reason.LIMIT: "try again later",
}


class Connects(Protocol):
    """What asking for an identity needs of a `Client`."""

    async def connect(self, *, patience: float | None = None) -> Session:
        """See `Client.connect`."""


async def request_identity(client: Connects, private_key: Secret, *, patience: float | None = None) -> Issued:
    """Ask a connector to issue an identity for a key. The client authenticates with what its connection string has: a
    claim certificate, or the earlier identity.

    Args:
        client: a client of the hybrid connection.
        private_key: the private key of the new identity, which stays here.
        patience: how long to wait for a session (seconds); see `Client.connect`.

    Returns:
        What the connector has answered: check it with `check_issued_untrusted`.

    Raises:
        PeerIdentityError: the connector does not issue it; `reason` says why.
        HybridRelayError: there is no connector; see `Client.connect`.
        RendezvousError: the connector was lost before it answered, it did not answer in time, or the client was
            closed. The connector may have issued the identity; ask again with the same key.
    """
    request = IssueRequest(make_request(private_key)).encode()
    try:
        session = await client.connect(patience=patience)
    except trio.ClosedResourceError as exc:
        raise _closed() from exc
    try:
        with trio.fail_after(ANSWER_SECONDS):
            stream = await session.open_stream(Kind.ISSUE)
            async with stream:
                await stream.send_all(request)
                await stream.send_eof()
                answer = parse_issue_answer_untrusted(await _receive(stream))
    except StreamRefused as exc:
        if exc.reason is Reason.KIND_NOT_OFFERED:
            raise _refusal(exc.reason, "it has no issuer, or is of an earlier version") from exc
        raise _refusal(exc.reason, str(exc)) from exc
    except ValueError as exc:
        raise _refusal(Reason.PROTOCOL_ERROR, f"its answer is malformed: {exc}") from exc
    except trio.TooSlowError as exc:
        raise RendezvousError("the connector did not answer in time", reason=Reason.PEER_SILENT) from exc
    except trio.ClosedResourceError as exc:
        raise _closed() from exc
    except trio.BrokenResourceError as exc:
        raise RendezvousError(
            f"the connector was lost before it answered: {exc}", reason=Reason.SESSION_LOST
        ) from exc
    if isinstance(answer, IssueRefused):
        raise _refusal(answer.reason, answer.detail)
    return answer


def _closed() -> RendezvousError:
    return RendezvousError("the client was closed before the connector answered", reason=Reason.GOING_AWAY)


def _refusal(reason: Reason, detail: str) -> PeerIdentityError:
    text = f"the connector did not issue an identity: {reason.describe}"
    return PeerIdentityError(f"{text} ({detail})" if detail else text, reason=reason, remedy=_REMEDIES.get(reason))


async def _receive(stream: MuxStream) -> bytes:
    """Return the answer. If it is too long, return just enough of it to notice that."""
    received = bytearray()
    while len(received) <= MAX_ISSUE_ANSWER and (data := await stream.receive_some()):
        received += data
    return bytes(received)
