"""Refusals by relays: the exceptions for them, which of them are permanent, and one error for several relays."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import (
    AuthorizationError,
    HybridRelayError,
    PeerIdentityError,
    RelayIdentityError,
    RelayUnreachable,
    RendezvousError,
)
from ..protocol import control
from ..protocol.reasons import Category, Reason

_USE_KEY = (
    "write a valid key into the connection string file: 'hybridrelay keys use NAME --rule RULE --key KEY --state DIR "
    "--update FILE' on the relay's machine, or with --out there and --key-file here; KEY is primary or secondary: "
    "'keys list NAME' shows which of them is valid"
)
_RAISE = (
    "have the limit raised on the relay's machine: 'hybridrelay connections limits NAME --help', or 'hybridrelay "
    "editions --help'"
)
_REMEDIES = {
    Reason.WRONG_KEY: f"the key was regenerated or mistyped: {_USE_KEY}",
    Reason.KEY_REVOKED: _USE_KEY,
    Reason.UNKNOWN_RULE: "compare SharedAccessKeyName with 'rules list' on the relay",
    Reason.RIGHT_MISSING: "a connector needs a key with the right Listen, an application one with Send",
    Reason.UNKNOWN_CONNECTION: (
        "compare EntityPath with 'connections list' on the relay; import its relay file there, or, if the relay has "
        "lost its state directory, create the hybrid connection again"
    ),
    Reason.CONNECTION_DISABLED: (
        "have it enabled again: 'hybridrelay connections enable NAME --state DIR' on the relay's machine"
    ),
    Reason.TOKEN_EXPIRED: "compare the clocks of this machine and the relay",
    Reason.WRONG_AUDIENCE: "Endpoint has to be the host name with which the hybrid connection was created",
    Reason.RELAY_DRAINING: "use another relay, or have the drain undone ('hybridrelay drain --undo' on the relay)",
    Reason.LISTENER_QUOTA: f"stop a connector that is not needed, or {_RAISE}",
    Reason.SENDER_QUOTA: f"stop a client that is not needed, or {_RAISE}",
    Reason.SESSION_QUOTA: f"end sessions that are not needed, or {_RAISE}",
    Reason.TRANSFER_QUOTA: f"wait for the next calendar month (UTC), or {_RAISE}",
    Reason.ADMINISTRATOR_DROPPED: (
        "nothing has to be done: a connector registers again by itself 30 seconds after it was dropped; to keep it "
        "out, stop it, disable the hybrid connection or revoke its key"
    ),
    Reason.NO_LISTENER: "start the connector, or check its log to see why it is not registered",
}
#: Kinds of errors, those that came closest to success first: the relay accepted us; the peer answered; the relay
#: answered; the relay was not reached.
_NEARNESS = (RendezvousError, PeerIdentityError, AuthorizationError, RelayIdentityError, RelayUnreachable)


def failure_error(connection: str, failed: control.Failed) -> HybridRelayError:
    """Return the exception for a `Failed` message of a relay."""
    reason = failed.reason
    kind = AuthorizationError if reason.category is Category.AUTHORIZATION else RendezvousError
    detail = f" ({failed.detail})" if failed.detail and failed.detail not in reason.describe else ""
    return kind(f"{connection}: {reason.describe}{detail}", reason=reason, remedy=_REMEDIES.get(reason))


def is_hopeless(error: HybridRelayError) -> bool:
    """Return whether retrying is pointless, because the administrator has to correct something first.

    An expired token is not included: it means that a clock is wrong, and clocks are often corrected soon after a
    machine has started.
    """
    return error.reason.is_permanent or isinstance(error, RelayIdentityError)


def is_final(error: HybridRelayError) -> bool:
    """Return whether a relay has refused our key, or the hybrid connection of the key, as invalid.

    A relay does this over its authenticated control channel. Refusals by a connector, or by anything between relay
    and connector, are never final: there may be other connectors, and the problem may be temporary.
    """
    return isinstance(error, AuthorizationError) and error.reason.is_permanent


def all_failed(failures: Mapping[str, HybridRelayError]) -> HybridRelayError:
    """Return one error for the failures of all relays, which are given by host name. A single one is returned
    unchanged.

    The error names each relay. Its type and `reason` are those of the failure that came closest to success. Failures
    that may be temporary come first, so the error is final only if every relay's refusal is.
    """
    if len(failures) == 1:
        return next(iter(failures.values()))
    nearest = min(failures.values(), key=_distance)
    errors = [f"{host}: {error}" for host, error in failures.items()]
    remedies = dict.fromkeys(error.remedy for error in sorted(failures.values(), key=_distance) if error.remedy)
    kind = _NEARNESS[_nearness(nearest)]
    return kind(
        f"no relay works: {'; '.join(errors)}",
        reason=nearest.reason,
        remedy="; ".join(remedies) or None,
        brief=f"no relay works ({', '.join(failures)})",
    )


def _distance(error: HybridRelayError) -> tuple[bool, bool, int]:
    return error.reason.is_permanent, is_hopeless(error), _nearness(error)


def _nearness(error: HybridRelayError) -> int:
    return next((index for index, kind in enumerate(_NEARNESS) if isinstance(error, kind)), len(_NEARNESS) - 1)
