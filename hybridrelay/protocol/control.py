"""Control messages between a connector or client and the relay. SPEC.md, section 7.

Each class below is a message, and its attributes are the fields. An invalid message cannot be constructed: the
validators raise `ValueError` or `TypeError`. `control_codec.py` encodes and decodes the messages.

A request has an id, which its sender chooses, and which no other unanswered request of that sender has. The answer
repeats it. Times of day are seconds since 1970, in UTC.

The id of an instance is 32 lower-case hexadecimal digits, computed from a secret of 32 random bytes (`instance_of`).
Clients learn the instances of connectors; only the connector itself, and the relays at which it registers, know the
secret. So no other party can register or replace an instance, or declare it dead.
"""

# This module is long because there are many messages.

from __future__ import annotations

import hashlib
import re
from typing import Any, TypeAlias

import attrs

from .._value import Value
from . import control_fields
from .control_fields import cut as _cut
from .control_fields import hex_of as _hex
from .control_fields import integer as _integer
from .control_fields import lifetime as _lifetime
from .control_fields import list_of as _list_of
from .control_fields import matching as _matching
from .control_fields import retry_after as _retry_after
from .control_fields import seconds as _seconds
from .control_fields import text_of as _text
from .control_states import KeptState as KeptState  # noqa: PLC0414 - names of this module, too
from .control_states import PeerRole as PeerRole  # noqa: PLC0414
from .control_states import TargetHealth as TargetHealth  # noqa: PLC0414
from .control_states import UpdateState as UpdateState  # noqa: PLC0414
from .limits import MAX_CONNECTION_NAME, MAX_TOKEN
from .preamble import TICKET_SIZE
from .reasons import Reason

#: How many previous instances one registration may declare dead. More restarts within a session's resume deadline are
#: not worth remembering.
MAX_REPLACES = 16
#: The most instances that one join can exclude: 64 of them take 2.2 KiB.
MAX_AVOID = 64
#: See `control_fields`.
MAX_DETAIL = control_fields.MAX_DETAIL
MAX_INTEGER = control_fields.MAX_INTEGER
MAX_LIFETIME_SECONDS = control_fields.MAX_LIFETIME_SECONDS
MAX_RETRY_AFTER_SECONDS = control_fields.MAX_RETRY_AFTER_SECONDS
MAX_SOFTWARE = 128
#: Outer certificates of one relay: the old and the new one during a renewal, and some more.
MAX_OUTER_PINS = 8
#: ``sha256:`` and 44 characters, with room for a longer hash.
MAX_PIN = 128
#: The greatest length of the opaque name of a holder (`Offer.holder`). A relay writes 50 characters.
MAX_HOLDER = 64
MAX_CLIENT_ADDRESS = 64
#: The size of the id and of the proof of a claim (bytes).
CLAIM_ID_SIZE = 16
CLAIM_PROOF_SIZE = 32
#: The size of the id of an attempt to take a claim (bytes).
CLAIM_ATTEMPT_SIZE = 16
#: The most bytes of the content of a claim that one message carries.
CLAIM_PART_SIZE = 3 * 1024
#: The largest number of messages in which the content of a claim is delivered.
MAX_CLAIM_PARTS = 8
#: The longest document of an update, in Base64 (`hybridrelay.security.MAX_UPDATE` bytes).
MAX_DOCUMENT = 6144
#: The size of the id of an audit log and of the hash of a record (bytes), and the longest texts of a checkpoint
#: (characters).
AUDIT_LOG_SIZE = 8
AUDIT_HASH_SIZE = 32
MAX_AUDIT_TIME = 32
MAX_AUDIT_KEY = 64
MAX_AUDIT_SIGNATURE = 96
#: The longest names of rules, and keys.
MAX_RULE = 256
MAX_KEY_TEXT = 256
_INSTANCE = re.compile(r"[0-9a-f]{32}\Z", re.ASCII)
#: The length of the secret from which an instance is computed (bytes).
INSTANCE_SECRET_SIZE = 32
_INSTANCE_SECRET = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)

#: The id of a rendezvous: 32 lower-case hexadecimal digits, or an empty text.
_RENDEZVOUS = re.compile(r"([0-9a-f]{32})?\Z", re.ASCII)

_DOCUMENT = re.compile(
    rf"(?=.{{4,{MAX_DOCUMENT}}}\Z)([A-Za-z0-9+/]{{4}})*([A-Za-z0-9+/]{{2}}==|[A-Za-z0-9+/]{{3}}=|[A-Za-z0-9+/]{{4}})\Z",
    re.ASCII,
)
_PART = re.compile(rf"([0-9a-f]{{2}}){{1,{CLAIM_PART_SIZE}}}\Z", re.ASCII)

#: The id of an instance; see the module's docstring.
Instance: TypeAlias = str
#: The secret of an instance: 64 lower-case hexadecimal digits.
InstanceSecret: TypeAlias = str


def instance_of(secret: InstanceSecret) -> Instance:
    """Return the id of the instance to which this secret belongs.

    Raises:
        ValueError: not 64 lower-case hexadecimal digits.
    """
    if not _INSTANCE_SECRET.match(secret):
        raise ValueError("not the secret of an instance")
    return hashlib.sha256(b"hybridrelay instance\n" + bytes.fromhex(secret)).hexdigest()[:32]


# --- validators of fields


_one_instance = _matching(_INSTANCE, "an instance")
_one_secret = _matching(_INSTANCE_SECRET, "the secret of an instance")
_rendezvous = _matching(_RENDEZVOUS, "the id of a rendezvous")
_attempt = _matching(
    re.compile(rf"([0-9a-f]{{{2 * CLAIM_ATTEMPT_SIZE}}})?\Z", re.ASCII), f"{CLAIM_ATTEMPT_SIZE} bytes in hexadecimal"
)
_secrets = _list_of(_one_secret, MAX_REPLACES)
_avoided = _list_of(_one_instance, MAX_AVOID)
_pins = _list_of(_text(MAX_PIN), MAX_OUTER_PINS)
_document = _matching(_DOCUMENT, f"Base64 of at most {MAX_DOCUMENT} characters")
_part = _matching(_PART, f"1 to {CLAIM_PART_SIZE} bytes in hexadecimal")


def _ticket(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bytes):
        raise TypeError(f"{attribute.name} is not bytes")
    if len(value) != TICKET_SIZE:
        raise ValueError(f"{attribute.name} does not have {TICKET_SIZE} bytes")


_connection = _text(MAX_CONNECTION_NAME)
_software = _text(MAX_SOFTWARE, empty=True)
_reason = attrs.validators.instance_of(Reason)


# --- the messages


@attrs.frozen
class Hello(Value):
    """The dialing side's first message, once per control channel."""

    role: PeerRole = attrs.field(converter=PeerRole)
    instance: Instance = attrs.field(validator=_one_instance)
    #: Greater for each further control channel of an instance. The channel with the highest generation replaces the
    #: others.
    generation: int = attrs.field(validator=_integer)
    #: Name and version, for the administrator.
    software: str = attrs.field(validator=_software)
    #: The secret of `instance`. A connector has to send it in order to register; a client does not send it.
    secret: InstanceSecret | None = attrs.field(
        default=None, validator=attrs.validators.optional(_one_secret), repr=False
    )


@attrs.frozen
class Welcome(Value):
    """The relay's answer to `Hello`. If `relay_instance` has changed since the last time, the relay was restarted."""

    relay_instance: Instance = attrs.field(validator=_one_instance)
    software: str = attrs.field(validator=_software)
    #: Pins of the relay's outer certificates: another certificate in the outer TLS shows that TLS is intercepted.
    #: Empty if the relay does not know them, because something in front of it terminates the outer TLS.
    outer_pins: tuple[str, ...] = attrs.field(default=(), validator=_pins)


@attrs.frozen
class Register(Value):
    """A connector registers as listener of a hybrid connection. The same message with a fresh token renews the
    registration."""

    id: int = attrs.field(validator=_integer)
    connection: str = attrs.field(validator=_connection)
    token: str = attrs.field(validator=_text(MAX_TOKEN), repr=False)
    #: Earlier instances of this connector that are known to be dead, by their secrets.
    replaces: tuple[InstanceSecret, ...] = attrs.field(default=(), validator=_secrets, repr=False)


@attrs.frozen
class Registered(Value):
    """Answer to `Register`: the registration lasts until `expires_at`, unless it is renewed before."""

    id: int = attrs.field(validator=_integer)
    #: Seconds since 1970. Not capped here, where there is no clock: the connector treats more than an hour from now
    #: as one hour.
    expires_at: float = attrs.field(validator=_seconds)


@attrs.frozen
class Unregister(Value):
    """A connector stops listening. Answered only on failure."""

    id: int = attrs.field(validator=_integer)
    connection: str = attrs.field(validator=_connection)


@attrs.frozen
class Join(Value):
    """A client asks for a rendezvous with a listener."""

    id: int = attrs.field(validator=_integer)
    connection: str = attrs.field(validator=_connection)
    token: str = attrs.field(validator=_text(MAX_TOKEN), repr=False)
    #: If set, only this instance is acceptable, because it has the session that is to be resumed.
    listener: Instance | None = attrs.field(default=None, validator=attrs.validators.optional(_one_instance))
    #: Instances to avoid, because they have just failed for this client. A relay that does not know the field ignores
    #: it.
    avoid: tuple[Instance, ...] = attrs.field(default=(), validator=_avoided)


@attrs.frozen
class Joined(Value):
    """Answer to `Join`: the ticket for the data channel. It can be used once, within its lifetime."""

    id: int = attrs.field(validator=_integer)
    ticket: bytes = attrs.field(validator=_ticket, repr=False)
    listener: Instance = attrs.field(validator=_one_instance)
    lifetime_seconds: float = attrs.field(converter=_lifetime, validator=_seconds)
    #: The id of the rendezvous, by which it is found in the relay's log. Only for logs. Empty if not known.
    rendezvous: str = attrs.field(default="", validator=_rendezvous)


@attrs.frozen
class Offer(Value):
    """The relay asks a listener to open a data channel for a rendezvous. Answered by `Accept` or `Failed`."""

    id: int = attrs.field(validator=_integer)
    connection: str = attrs.field(validator=_connection)
    ticket: bytes = attrs.field(validator=_ticket, repr=False)
    lifetime_seconds: float = attrs.field(converter=_lifetime, validator=_seconds)
    #: An opaque name of the holder, so that a connector can limit each holder. It is the same for all joins with one
    #: key from one network address during one run of the relay. It has three parts, separated by slashes, for the
    #: key, the network and the address: names of holders with the same key begin with the same part, and so on. Empty
    #: if not known.
    holder: str = attrs.field(default="", validator=_text(MAX_HOLDER, empty=True))
    #: As in `Joined`.
    rendezvous: str = attrs.field(default="", validator=_rendezvous)
    #: The address of the client, as the relay knows it, for the connector's audit log. Empty if not known.
    client_address: str = attrs.field(default="", validator=_text(MAX_CLIENT_ADDRESS, empty=True))


@attrs.frozen
class Accept(Value):
    """The listener accepts an offer, and is going to dial its data channel."""

    id: int = attrs.field(validator=_integer)


@attrs.frozen
class Proved(Value):
    """The listener reports that the client at the other end of its data channel has proved its identity.

    Until then, the relay may close the data channel to make room for others of the same key. Not answered.
    """

    #: The id of the accepted offer.
    id: int = attrs.field(validator=_integer)


@attrs.frozen
class Health(Value):
    """A connector reports whether it can connect to the target of a hybrid connection for which it is registered.

    It sends this message when the health has changed, and after each registration. Not answered.
    """

    connection: str = attrs.field(validator=_connection)
    target: TargetHealth = attrs.field(validator=attrs.validators.instance_of(TargetHealth))


@attrs.frozen
class Take(Value):
    """A taker asks for the content of a claim. Answered by `Taken`, once for each part, or by `Failed`.

    Only one `Take` is allowed on each control channel.
    """

    id: int = attrs.field(validator=_integer)
    claim: str = attrs.field(validator=_hex(CLAIM_ID_SIZE))
    proof: str = attrs.field(validator=_hex(CLAIM_PROOF_SIZE), repr=False)
    #: Random, and the same each time that one taker asks for one claim; or an empty text.
    attempt: str = attrs.field(default="", validator=_attempt, repr=False)


@attrs.frozen
class Taken(Value):
    """A part of the content of a claim. The relay has already deleted the content from its registry. The parts arrive
    in order."""

    id: int = attrs.field(validator=_integer)
    #: The number of this part, from 0, and how many there are.
    number: int = attrs.field(validator=_integer)
    count: int = attrs.field(validator=_integer)
    sealed: str = attrs.field(validator=_part, repr=False)

    def __attrs_post_init__(self) -> None:
        if not self.number < self.count <= MAX_CLAIM_PARTS:
            raise ValueError("number or count is out of range")


@attrs.frozen
class Key(Value):
    """The relay gives a peer the new key of a rule, in place of one that the peer has used. Answered by `KeyKept`.

    The relay repeats it to peers that do not have the key yet.
    """

    connection: str = attrs.field(validator=_connection)
    rule: str = attrs.field(validator=_text(MAX_RULE))
    generation: int = attrs.field(validator=_integer)
    key: str = attrs.field(validator=_text(MAX_KEY_TEXT), repr=False)


@attrs.frozen
class KeyKept(Value):
    """What a peer has done with a `Key`."""

    connection: str = attrs.field(validator=_connection)
    generation: int = attrs.field(validator=_integer)
    state: KeptState = attrs.field(converter=KeptState)
    #: For people; cut to `MAX_DETAIL` characters.
    detail: str = attrs.field(default="", converter=_cut, validator=_text(MAX_DETAIL, empty=True))


@attrs.frozen
class Update(Value):
    """The relay gives a peer an update for its connection string. Answered by `UpdateKept`.

    The relay cannot read the update. It repeats it to peers that have not kept it.
    """

    connection: str = attrs.field(validator=_connection)
    #: The sequence, as stated to the relay. The authentic one is in the document.
    sequence: int = attrs.field(validator=_integer)
    #: Base64.
    document: str = attrs.field(validator=_document, repr=False)


@attrs.frozen
class UpdateKept(Value):
    """What a peer has done with an `Update`."""

    connection: str = attrs.field(validator=_connection)
    #: As in `Update`.
    sequence: int = attrs.field(validator=_integer)
    state: UpdateState = attrs.field(converter=UpdateState)
    #: For people; cut to `MAX_DETAIL` characters.
    detail: str = attrs.field(default="", converter=_cut, validator=_text(MAX_DETAIL, empty=True))


@attrs.frozen
class Check(Value):
    """A peer asks whether the relay accepts a token. Answered by `Checked` or `Failed`."""

    id: int = attrs.field(validator=_integer)
    connection: str = attrs.field(validator=_connection)
    token: str = attrs.field(validator=_text(MAX_TOKEN), repr=False)


@attrs.frozen
class Checked(Value):
    """Answer to `Check`: the relay accepts the token."""

    id: int = attrs.field(validator=_integer)


@attrs.frozen
class Witness(Value):
    """A peer asks the relay to keep a checkpoint of its audit log. Answered by `Witnessed` or `Failed`.

    The relay checks the signature with `key`. It does not know whose key this is.
    """

    id: int = attrs.field(validator=_integer)
    #: A hybrid connection for which the peer has presented a valid token over this channel.
    connection: str = attrs.field(validator=_connection)
    #: The id of the audit log.
    log: str = attrs.field(validator=_hex(AUDIT_LOG_SIZE))
    #: The number of the last record that is signed, and its hash.
    seq: int = attrs.field(validator=_integer)
    head: str = attrs.field(validator=_hex(AUDIT_HASH_SIZE))
    #: When it was signed, as the audit log states it; the public key, and the signature.
    at: str = attrs.field(validator=_text(MAX_AUDIT_TIME))
    key: str = attrs.field(validator=_text(MAX_AUDIT_KEY))
    signature: str = attrs.field(validator=_text(MAX_AUDIT_SIGNATURE))


@attrs.frozen
class Witnessed(Value):
    """Answer to `Witness`: the relay has stored the checkpoint."""

    id: int = attrs.field(validator=_integer)


@attrs.frozen
class Failed(Value):
    """The answer to any request that fails."""

    id: int = attrs.field(validator=_integer)
    reason: Reason = attrs.field(validator=_reason)
    #: For people; cut to `MAX_DETAIL` characters.
    detail: str = attrs.field(default="", converter=_cut, validator=_text(MAX_DETAIL, empty=True))


@attrs.frozen
class Ended(Value):
    """The relay has ended what a token had authorized: a registration, or the right to join."""

    connection: str = attrs.field(validator=_connection)
    reason: Reason = attrs.field(validator=_reason)


@attrs.frozen
class Draining(Value):
    """The relay accepts no new registrations and joins, because an administrator drains it or it is about to stop.

    Peers are asked to come back after `retry_after_seconds`.
    """

    #: A time longer than `MAX_RETRY_AFTER_SECONDS` counts as `MAX_RETRY_AFTER_SECONDS`.
    retry_after_seconds: float = attrs.field(converter=_retry_after, validator=_seconds)


@attrs.frozen
class Unknown(Value):
    """A message of a type that we do not know, from a newer peer. Not answered."""

    type: str


Message: TypeAlias = (
    Hello
    | Welcome
    | Register
    | Registered
    | Unregister
    | Join
    | Joined
    | Offer
    | Accept
    | Proved
    | Health
    | Take
    | Taken
    | Key
    | KeyKept
    | Update
    | UpdateKept
    | Check
    | Checked
    | Witness
    | Witnessed
    | Failed
    | Ended
    | Draining
)
