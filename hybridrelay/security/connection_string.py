"""Connection strings: everything that one side of a hybrid connection needs, in one line.

They have the fields of Azure Relay's connection strings (``Endpoint``, ``SharedAccessKeyName``, ``SharedAccessKey``,
``EntityPath``) and additional ones. A value may contain ``=`` but not ``;``. Field names are case-insensitive.
"""

# This module is long because each field is here three times, side by side: what it means, how it is written and how
# it is checked.

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import attrs

from .._check_type import check_type
from .._text_files import strip_value
from .._value import Value
from ..errors import ConnectionStringError
from .encoding import decode_der_untrusted, encode_der
from .endpoints import (
    Endpoint,
    check_hosts,
    format_hosts,
    format_port_lists,
    pair_endpoints,
    parse_hosts_untrusted,
    parse_port_lists_untrusted,
)
from .identity import Identity, Role
from .issuer import Issuer
from .local_names import check_local_name, parse_local_name_untrusted
from .names import Protocols, check_connection_name
from .pins import check_pin
from .rules import check_key, check_rule_name
from .secret import Secret
from .targets import HostTarget, Target, parse_target_untrusted

T = TypeVar("T")

#: In characters. Normal connection strings have 1 to 2 KB; longer texts are not parsed at all.
MAX_CONNECTION_STRING = 16 * 1024
MAX_RELAY_PINS = 8
#: The largest sequence of an update. Integers beyond this are not exact in every JSON implementation.
MAX_SEQUENCE = 2**53 - 1
_UPDATE_KEY_SIZE = 32
_SEQUENCE = re.compile(r"[0-9]{1,16}", re.ASCII)
#: Canonical names, in the order in which they are written.
_FIELDS = (
    "Endpoint",
    "SharedAccessKeyName",
    "SharedAccessKey",
    "EntityPath",
    "Target",
    "PrivateKey",
    "Certificate",
    "Authority",
    "IssuerCertificate",
    "IssuerKey",
    "RelayPin",
    "Ports",
    "LocalName",
    "Protocols",
    "UpdateKey",
    "UpdateSequence",
)
_BY_LOWER = {name.lower(): name for name in _FIELDS}
_REQUIRED = _FIELDS[:4]
#: The values of the field Protocols, which is left out for streams alone.
_PROTOCOLS = {one.value.removeprefix("/"): one for one in Protocols if one is not Protocols.TCP}
_IDENTITY_FIELDS = ("PrivateKey", "Certificate", "Authority")
#: An unknown field name is quoted in the error only if it cannot be a part of a secret.
_HARMLESS = re.compile(r"[A-Za-z]{1,24}")
_TEXT_REMEDY = (
    "give the content of the file that 'connections create' wrote, not its name; in Python, "
    "load_connection_string(path) reads it"
)
_WHOLE_REMEDY = "use the string that 'hybridrelay connections create' or 'connections issue' wrote"
_ENTITY_PATH_REMEDY = f"{_WHOLE_REMEDY}; EntityPath is the name of the hybrid connection"
#: Matches the beginning of a file's path, which no field name matches.
_PATH = re.compile(r"[./~\\]|[A-Za-z]:[/\\]")


@attrs.frozen
class ConnectionString(Value):
    """A parsed connection string. Its `repr` shows no secret; `format` converts it to text."""

    #: The relays that serve the hybrid connection, in order of preference.
    endpoints: tuple[Endpoint, ...] = attrs.field()
    key_name: str = attrs.field(validator=lambda _instance, _attribute, value: check_rule_name(value))
    key: Secret = attrs.field(validator=lambda _instance, _attribute, value: check_key(value))
    #: The name of the hybrid connection.
    entity_path: str = attrs.field(validator=lambda _instance, _attribute, value: check_connection_name(value))
    #: What the connector connects to; only a connector's connection string has it.
    target: Target | None = None
    #: The end-to-end identity of this side.
    identity: Identity | None = None
    #: The certificate (DER) of the authority that has issued the identities of both sides.
    authority: bytes | None = attrs.field(default=None, repr=False)
    #: Signs the identities of applications; only a connector's connection string may have it.
    issuer: Issuer | None = None
    #: The pins of the relays, ``sha256:<base64>``; any of them is accepted for any relay. If there are none, the
    #: relays' certificates are verified with certificate authorities.
    relay_pins: tuple[str, ...] = attrs.field(default=())
    #: The name and ports under which this machine's applications know the target; only an application's connection
    #: string has it. It is advice, and is used on this machine only: neither relay nor connector learns it.
    local_name: HostTarget | None = attrs.field(default=None, converter=attrs.converters.optional(check_local_name))
    #: What the target receives, in an application's connection string: the client opens local ports for it if nothing
    #: else is said. A connector's connection string has it in the target.
    protocols: Protocols = Protocols.TCP
    #: The key with which updates for this side are encrypted (`update_document`); None if it cannot read updates.
    update_key: Secret | None = None
    #: The sequence of the last update that was used; 0 if none was.
    update_sequence: int = 0
    #: The regular file that it was read from, in which a running program stores what changes; None if there is none.
    file: Path | None = attrs.field(default=None, eq=False, repr=False, kw_only=True)

    @endpoints.validator
    def _check_endpoints(self, attribute: object, value: tuple[Endpoint, ...]) -> None:
        check_hosts([endpoint.host for endpoint in value])

    @relay_pins.validator
    def _check_pins(self, attribute: object, value: tuple[str, ...]) -> None:
        if len(value) > MAX_RELAY_PINS:
            raise ValueError(f"at most {MAX_RELAY_PINS} pins")
        for pin in value:
            check_pin(pin)

    def __attrs_post_init__(self) -> None:
        if self.target is not None and self.local_name is not None:
            raise ValueError("a local name is for applications, and a target for connectors")
        if self.target is not None and self.protocols is not Protocols.TCP:
            raise ValueError("protocols are for applications, and a target for connectors")
        if (self.identity is None) != (self.authority is None):
            raise ValueError("an identity needs its authority, and an authority needs an identity")
        if self.issuer is not None and (self.identity is None or self.target is None):
            raise ValueError("only a connector with an identity can have an issuer")

    @property
    def role(self) -> Role:
        """The side that the connection string is for: a connector's connection string has a target."""
        return Role.CONNECTOR if self.target is not None else Role.APPLICATION

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts of its relays, in their order."""
        return tuple(endpoint.host for endpoint in self.endpoints)

    def require_identity(self) -> tuple[Identity, bytes]:
        """Return the identity and the authority's certificate (DER).

        Raises:
            ConnectionStringError: there is no identity, so data channels cannot be opened.
        """
        if self.identity is None or self.authority is None:
            raise ConnectionStringError(
                "the connection string has no PrivateKey, Certificate and Authority",
                part="PrivateKey",
                remedy=_WHOLE_REMEDY,
            )
        return self.identity, self.authority

    def require_target(self) -> Target:
        """Return what the connector connects to.

        Raises:
            ConnectionStringError: this is an application's connection string.
        """
        if self.target is None:
            raise ConnectionStringError(
                "the connection string has no Target: it is an application's, not a connector's",
                part="Target",
                remedy="give the connector the file that was written as --connector-file",
            )
        return self.target

    def require_application(self) -> None:
        """Check that a client may use the connection string.

        Raises:
            ConnectionStringError: this is a connector's connection string.
        """
        if self.role is not Role.APPLICATION:
            raise ConnectionStringError(
                "this is a connector's connection string; it can only listen",
                part="Target",
                remedy="use the file that was written as --application-file",
            )

    def format(self) -> str:
        """Return the text of the connection string, with its secrets, for `parse_connection_string_untrusted`."""
        values = {
            "Endpoint": format_hosts(self.hosts),
            "SharedAccessKeyName": self.key_name,
            "SharedAccessKey": self.key.reveal(),
            "EntityPath": self.entity_path,
        }
        if self.target is not None:
            values["Target"] = str(self.target)
        if self.identity is not None and self.authority is not None:
            values["PrivateKey"] = self.identity.private_key.reveal()
            values["Certificate"] = encode_der(self.identity.certificate)
            values["Authority"] = encode_der(self.authority)
            if self.issuer is not None:
                values["IssuerCertificate"] = encode_der(self.issuer.certificate)
                values["IssuerKey"] = self.issuer.private_key.reveal()
            elif self.identity.issuer is not None:
                values["IssuerCertificate"] = encode_der(self.identity.issuer)
        if self.relay_pins:
            values["RelayPin"] = ",".join(self.relay_pins)
        if ports := format_port_lists(self.endpoints):
            values["Ports"] = ports
        if self.local_name is not None:
            values["LocalName"] = str(self.local_name)
        if self.protocols is not Protocols.TCP:
            values["Protocols"] = self.protocols.value.removeprefix("/")
        if self.update_key is not None:
            values["UpdateKey"] = self.update_key.reveal()
        if self.update_sequence:
            values["UpdateSequence"] = str(self.update_sequence)
        return ";".join(f"{name}={value}" for name, value in values.items())


def check_is_connection_string(value: object) -> ConnectionString:
    """Return `value` if it is a `ConnectionString`.

    Raises:
        TypeError: it is something else. The message says how to read one, and does not repeat the value.
    """
    return check_type(value, ConnectionString, "load_connection_string(path) reads one")


def parse_connection_string_untrusted(text: str, *, remedy: str = _TEXT_REMEDY) -> ConnectionString:
    """Parse a connection string. Blanks, quotes and a byte-order mark around it are ignored.

    Args:
        text: the connection string.
        remedy: the advice of the error if `text` has no fields at all.

    Raises:
        ConnectionStringError: the text is malformed. `part` names the field. The message quotes no value.
    """
    if len(text) > MAX_CONNECTION_STRING:
        raise ConnectionStringError(f"the connection string is longer than {MAX_CONNECTION_STRING} characters")
    text = strip_value(text)
    _check_kind(text, remedy)
    fields = _split(text)
    for name in _REQUIRED:
        if not fields.get(name):
            remedy = _ENTITY_PATH_REMEDY if name == "EntityPath" else _WHOLE_REMEDY
            raise _error(name, "is missing", remedy=remedy)
    given = [name for name in _IDENTITY_FIELDS if name in fields]
    if given and len(given) < len(_IDENTITY_FIELDS):
        missing = next(name for name in _IDENTITY_FIELDS if name not in fields)
        raise _error(missing, f"is missing: it comes together with {given[0]}", remedy=_WHOLE_REMEDY)
    _check_issuer_fields(fields, has_identity=bool(given))

    for name in ("LocalName", "Protocols"):
        if "Target" in fields and name in fields:
            raise _error(
                name, "comes together with Target: one is for applications, the other for connectors",
                remedy=_WHOLE_REMEDY,
            )  # fmt: skip

    def field(name: str, parse: Callable[[str], T], default: T) -> T:
        if name not in fields:
            return default
        try:
            return parse(fields[name])
        except ValueError as exc:
            raise _error(name, f"is wrong: {exc}") from None

    private_key = field("PrivateKey", _parse_private_key, None)
    certificate = field("Certificate", decode_der_untrusted, None)
    issuer_key = field("IssuerKey", _parse_private_key, None)
    issuer_certificate = field("IssuerCertificate", decode_der_untrusted, None)
    issuer = identity = None
    if issuer_key is not None and issuer_certificate is not None:
        issuer = Issuer(issuer_certificate, issuer_key)
    if private_key is not None and certificate is not None:
        identity = Identity(certificate, private_key, issuer_certificate if issuer is None else None)
    hosts = field("Endpoint", parse_hosts_untrusted, tuple[str, ...]())
    return ConnectionString(
        endpoints=field(
            "Ports", lambda text: pair_endpoints(hosts, parse_port_lists_untrusted(text)), pair_endpoints(hosts, ())
        ),
        key_name=field("SharedAccessKeyName", check_rule_name, ""),
        key=field("SharedAccessKey", lambda value: check_key(Secret(value)), Secret("")),
        entity_path=field("EntityPath", check_connection_name, ""),
        target=field("Target", parse_target_untrusted, None),
        identity=identity,
        authority=field("Authority", decode_der_untrusted, None),
        issuer=issuer,
        relay_pins=field("RelayPin", _parse_pins, ()),
        local_name=field("LocalName", parse_local_name_untrusted, None),
        protocols=field("Protocols", _parse_protocols, Protocols.TCP),
        update_key=field("UpdateKey", _parse_update_key, None),
        update_sequence=field("UpdateSequence", _parse_sequence, 0),
    )


def looks_like_connection_string(text: str) -> bool:
    """Return whether this looks like a connection string, for messages about a file of the wrong kind."""
    return "sharedaccesskeyname=" in text.lower()


def _check_kind(text: str, remedy: str) -> None:
    """Raise an error with specific advice if this is recognizable as something other than a connection string."""
    if not text:
        raise ConnectionStringError("the connection string is empty", remedy=_WHOLE_REMEDY)
    if text.startswith("{"):
        raise ConnectionStringError(
            "this is not a connection string; it looks like a relay file or an authority file",
            remedy="use the file that was written as --connector-file or --application-file",
        )
    if text.startswith("-----BEGIN"):
        raise ConnectionStringError(
            "this is not a connection string; it looks like a certificate or a key in PEM",
            remedy="use the file that was written as --connector-file or --application-file",
        )
    if "=" not in text or _PATH.match(text):
        raise ConnectionStringError(
            "this is not a connection string: it has no fields (Name=value;Name=value)",
            remedy=remedy,
        )


def _split(text: str) -> dict[str, str]:
    if not (text.isascii() and text.isprintable()):
        raise ConnectionStringError(
            "the connection string contains a line break or a character that is not ASCII",
            remedy="it is a single line: check how it was copied",
        )
    fields: dict[str, str] = {}
    for number, item in enumerate(text.split(";"), 1):
        if not item.strip():
            continue
        given, equals, value = item.partition("=")
        given = given.strip()
        name = _BY_LOWER.get(given.lower())
        if name is None or not equals:
            # An unknown name may be a stray piece of a key.
            shown = f"'{given}'" if equals and _HARMLESS.fullmatch(given) else f"number {number}"
            raise ConnectionStringError(
                f"the connection string's field {shown} is unknown",
                part=shown,
                remedy=f"the known fields are: {', '.join(_FIELDS)}",
            )
        if name in fields:
            raise _error(name, "appears twice")
        fields[name] = value.strip()
    return fields


def _check_issuer_fields(fields: Mapping[str, str], *, has_identity: bool) -> None:
    """Check that the fields about an issuer fit the others: a connector has the issuer and its key, and an
    application has the certificate of the issuer that has made its identity."""
    certificate, key = "IssuerCertificate" in fields, "IssuerKey" in fields
    is_connector = "Target" in fields
    if certificate and not has_identity:
        raise _error("PrivateKey", "is missing: it comes together with IssuerCertificate", remedy=_WHOLE_REMEDY)
    if key and not certificate:
        raise _error("IssuerCertificate", "is missing: it comes together with IssuerKey", remedy=_WHOLE_REMEDY)
    if is_connector and certificate and not key:
        raise _error("IssuerKey", "is missing: it comes together with IssuerCertificate", remedy=_WHOLE_REMEDY)
    if key and not is_connector:
        raise _error("IssuerKey", "is only for connectors, and this is an application's", remedy=_WHOLE_REMEDY)


def _parse_private_key(text: str) -> Secret:
    decode_der_untrusted(text)
    return Secret(text)


def _parse_pins(text: str) -> tuple[str, ...]:
    pins = tuple(pin.strip() for pin in text.split(","))
    if len(pins) > MAX_RELAY_PINS:
        raise ValueError(f"at most {MAX_RELAY_PINS} pins")
    return tuple(check_pin(pin) for pin in pins)


def _parse_update_key(text: str) -> Secret:
    try:
        size = len(base64.b64decode(text.encode("ascii"), validate=True))
    except (binascii.Error, UnicodeError):
        size = 0
    if size != _UPDATE_KEY_SIZE:
        raise ValueError(f"expected Base64 of {_UPDATE_KEY_SIZE} bytes")
    return Secret(text)


def _parse_protocols(text: str) -> Protocols:
    if text not in _PROTOCOLS:
        raise ValueError(f"expected {' or '.join(_PROTOCOLS)}")
    return _PROTOCOLS[text]


def _parse_sequence(text: str) -> int:
    if not _SEQUENCE.fullmatch(text) or int(text) > MAX_SEQUENCE:
        raise ValueError("expected a number")
    return int(text)


def _error(name: str, problem: str, *, remedy: str | None = None) -> ConnectionStringError:
    return ConnectionStringError(f"the connection string's {name} {problem}", part=name, remedy=remedy)
