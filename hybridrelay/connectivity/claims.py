"""Takes a claim: gets its sealed content from the relay, and decrypts it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

import trio

from .._nursery import FlatNursery
from ..abc import Dialer, Transport
from ..errors import AuthorizationError, HybridRelayError, RelayUnreachable
from ..protocol import control
from ..protocol.reasons import Category, Reason
from ..security import ClaimCode, ClaimContent, ClaimKeys, open_claim_untrusted
from .discovery import AUTO
from .endpoint import RelayEndpoint
from .instance import new_instance
from .link import RelayLink

__all__ = ["new_attempt", "take_claim"]

_REMEDIES = {
    Reason.CLAIM_UNKNOWN: (
        "compare the code with what 'claims create' has shown; a relay forgets claims 30 days after their end"
    ),
    Reason.CLAIM_TAKEN: (
        "if it was not you who took it, tell the administrator at once: somebody else has this connection string. "
        "The administrator then regenerates the key of its rule, denies its identity at the connector, and creates "
        "another claim"
    ),
    Reason.CLAIM_EXPIRED: "ask the administrator for a new one",
    Reason.CLAIM_REVOKED: "ask the administrator for a new one",
    Reason.CLAIM_LOST: (
        "nobody else has received it, so nothing has to be revoked: ask the administrator to create another claim"
    ),
    Reason.CONNECTION_DISABLED: (
        "ask the administrator of the relay to enable the hybrid connection; the claim is kept"
    ),
}


def new_attempt() -> str:
    """Return a random number for `take_claim`: 32 hexadecimal digits."""
    return secrets.token_hex(control.CLAIM_ATTEMPT_SIZE)


async def take_claim(
    code: ClaimCode,
    keep: Callable[[ClaimContent], None],
    *,
    attempt: Callable[[], str] = new_attempt,
    mode: str = AUTO,
    dialer: Dialer | None = None,
    transports: Mapping[str, Transport] | None = None,
) -> None:
    """Take a claim, and pass its content to `keep`.

    The relay delivers it once. Therefore, once it has been asked for, cancellation waits for the answer (up to twenty
    seconds) and for `keep`.

    Args:
        code: the claim's code.
        keep: stores the content. It should not fail, so check before whether it can.
        attempt: returns the number by which the relay recognizes this taker if it asks again, because the answer did
            not arrive: otherwise the relay would take it for somebody else, and raise the alarm. Called immediately
            before the relay is asked.
        mode: ``auto`` or the name of the only transport allowed.
        dialer: opens connections; None means one that uses the proxy that the environment names, if any.
        transports: by name; None means those that are installed.

    Raises:
        RelayUnreachable: no route to the relay works, or the relay did not answer the request. Only in the latter
            case may it have sent the content, which is then lost. To find out, ask again with the same `attempt`.
        RelayIdentityError: what answers is not the relay. Nothing was sent to it.
        AuthorizationError: the relay refuses; `reason` says why: the claim is unknown, was taken before, has expired,
            or was revoked; or the content was sent to the same `attempt` before, and is lost.
        ClaimError: what the relay has delivered cannot be used.
        ConfigurationError: the mode is unknown, or the relay serves no port that it can use.
    """
    endpoint = RelayEndpoint(code.endpoint.host, code.endpoint.ports, (code.pin,) if code.pin else ())
    link = RelayLink(
        endpoint,
        control.PeerRole.TAKER,
        instance=new_instance(),
        mode=mode,
        dialer=dialer,
        transports=transports,
    )
    keys = ClaimKeys.of(code)
    with trio.CancelScope() as scope:
        async with FlatNursery() as nursery:
            channel = await link.start_control(nursery)
            await trio.lowlevel.checkpoint_if_cancelled()
            scope.shield = True  # also for the channel; `take` has a deadline of its own
            take = control.Take(channel.next_id(), keys.id, keys.proof.reveal(), attempt())
            answer = await channel.take(take)
            if isinstance(answer, control.Failed):
                raise _refusal(answer)
            keep(open_claim_untrusted(keys, answer))
            nursery.cancel_scope.cancel()


def _refusal(failed: control.Failed) -> HybridRelayError:
    reason = failed.reason
    detail = f" {failed.detail}" if failed.detail else ""
    if reason.category is Category.AUTHORIZATION:
        return AuthorizationError(f"{reason.describe}{detail}", reason=reason, remedy=_REMEDIES.get(reason))
    return RelayUnreachable(f"the relay cannot deliver the claim now: {reason.describe}{detail}", reason=reason)
