"""Connection strings: everything that one side of a hybrid connection needs, in one line.

The public format (``Endpoint``, ``SharedAccessKeyName``, ``SharedAccessKey``, ``EntityPath``) plus fields of our own.
A value may contain ``=`` but no ``;``. Field names are case-insensitive.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

import attrs

from ..errors import ConnectionStringError
from .encoding import decode_der_untrusted, encode_der
from .identity import Identity, Role
from .names import (
    HostPort,
    bracketed,
    check_connection_name,
    check_host,
    parse_host_port_untrusted,
    parse_port_untrusted,
)
from .pins import check_pin
from .rules import check_key, check_rule_name
from .secret import Secret

T = TypeVar("T")

#: Ours have 1 to 2 KB; bounds what is parsed before anything is known about the text.
MAX_CONNECTION_STRING = 16 * 1024
MAX_RELAY_PINS = 8
MAX_PORTS = 16
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
    "RelayPin",
    "Ports",
)
_BY_LOWER = {name.lower(): name for name in _FIELDS}
_REQUIRED = _FIELDS[:4]
_IDENTITY_FIELDS = ("PrivateKey", "Certificate", "Authority")
_ENDPOINT = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,15})://(?P<authority>[^/?#]*)(?P<rest>.*)", re.DOTALL)
_PORT_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
#: An unknown field name is repeated in the error only if it can be no part of a secret.
_HARMLESS = re.compile(r"[A-Za-z]{1,24}")


def _check_ports(instance: object, attribute: object, value: Mapping[str, int | None]) -> None:
    if len(value) > MAX_PORTS:
        raise ValueError(f"at most {MAX_PORTS} ports")
    for name, port in value.items():
        if not _PORT_NAME.fullmatch(name):
            raise ValueError("a port's name consists of lower case letters, digits, _ and -")
        if port is not None and not 1 <= port <= 65535:
            raise ValueError("a port is a number from 1 to 65535, or off")


def _frozen_ports(value: Mapping[str, int | None]) -> Mapping[str, int | None]:
    return MappingProxyType(dict(value))


@attrs.frozen
class ConnectionString:
    """A connection string, taken apart. Its `repr` shows no secret; `format` writes it back."""

    #: The relay's host name or IP address, without brackets.
    host: str = attrs.field(validator=lambda _instance, _attribute, value: check_host(value))
    key_name: str = attrs.field(validator=lambda _instance, _attribute, value: check_rule_name(value))
    key: Secret = attrs.field(validator=lambda _instance, _attribute, value: check_key(value))
    #: The hybrid connection.
    entity_path: str = attrs.field(validator=lambda _instance, _attribute, value: check_connection_name(value))
    #: What the connector dials; only a connector's string has it.
    target: HostPort | None = None
    #: Our end-to-end identity.
    identity: Identity | None = None
    #: The certificate (DER) of the authority that issued our identity and the peer's.
    authority: bytes | None = attrs.field(default=None, repr=False)
    #: ``sha256:<base64>`` of the relay's public key, any one of which is right. Empty: verify the relay by CA.
    relay_pins: tuple[str, ...] = attrs.field(default=())
    #: The relay's ports that are not the defaults, by name; None is off.
    ports: Mapping[str, int | None] = attrs.field(
        factory=dict[str, int | None], converter=_frozen_ports, validator=_check_ports
    )

    @relay_pins.validator
    def _check_pins(self, attribute: object, value: tuple[str, ...]) -> None:
        if len(value) > MAX_RELAY_PINS:
            raise ValueError(f"at most {MAX_RELAY_PINS} pins")
        for pin in value:
            check_pin(pin)

    def __attrs_post_init__(self) -> None:
        if (self.identity is None) != (self.authority is None):
            raise ValueError("an identity and its authority come together")

    @property
    def role(self) -> Role:
        """Whose string it is: a connector's has a target."""
        return Role.CONNECTOR if self.target is not None else Role.APPLICATION

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The hosts of all relays that serve this hybrid connection, first choice first. One, for now."""
        return (self.host,)

    def require_identity(self) -> tuple[Identity, bytes]:
        """The identity and the authority's certificate (DER).

        Raises:
            ConnectionStringError: the string has none, so it cannot be used for data channels.
        """
        if self.identity is None or self.authority is None:
            raise ConnectionStringError(
                "the connection string has no PrivateKey, Certificate and Authority",
                part="PrivateKey",
                remedy="use the string that 'hybridrelay connections create' or 'connections issue' wrote",
            )
        return self.identity, self.authority

    def require_target(self) -> HostPort:
        """What the connector dials.

        Raises:
            ConnectionStringError: this is an application's string.
        """
        if self.target is None:
            raise ConnectionStringError(
                "the connection string has no Target: it is an application's, not a connector's",
                part="Target",
                remedy="give the connector the file that was written as --connector-file",
            )
        return self.target

    def format(self) -> str:
        """The connection string as one line, secrets included. `parse_connection_string_untrusted` reads it back."""
        values = {
            "Endpoint": f"hr://{bracketed(self.host)}/",
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
        if self.relay_pins:
            values["RelayPin"] = ",".join(self.relay_pins)
        if self.ports:
            values["Ports"] = format_ports(self.ports)
        return ";".join(f"{name}={value}" for name, value in values.items())


def parse_connection_string_untrusted(text: str) -> ConnectionString:
    """Parse a connection string.

    Raises:
        ConnectionStringError: `part` names the field that is wrong; nothing is repeated of any value.
    """
    if len(text) > MAX_CONNECTION_STRING:
        raise ConnectionStringError(f"the connection string is longer than {MAX_CONNECTION_STRING} characters")
    fields = _split(text.strip())
    for name in _REQUIRED:
        if not fields.get(name):
            raise _error(name, "is missing")
    given = [name for name in _IDENTITY_FIELDS if name in fields]
    if given and len(given) < len(_IDENTITY_FIELDS):
        missing = next(name for name in _IDENTITY_FIELDS if name not in fields)
        raise _error(missing, f"is missing: it comes together with {given[0]}")

    def field(name: str, parse: Callable[[str], T], default: T) -> T:
        if name not in fields:
            return default
        try:
            return parse(fields[name])
        except ValueError as exc:
            raise _error(name, f"is wrong: {exc}") from None

    private_key = field("PrivateKey", _parse_private_key, None)
    certificate = field("Certificate", decode_der_untrusted, None)
    return ConnectionString(
        host=field("Endpoint", _parse_endpoint, ""),
        key_name=field("SharedAccessKeyName", check_rule_name, ""),
        key=field("SharedAccessKey", lambda value: check_key(Secret(value)), Secret("")),
        entity_path=field("EntityPath", check_connection_name, ""),
        target=field("Target", parse_host_port_untrusted, None),
        identity=None if private_key is None or certificate is None else Identity(certificate, private_key),
        authority=field("Authority", decode_der_untrusted, None),
        relay_pins=field("RelayPin", _parse_pins, ()),
        ports=field("Ports", parse_ports_untrusted, dict[str, int | None]()),
    )


def parse_ports_untrusted(text: str) -> dict[str, int | None]:
    """Parse ``name=number,name=off``; off is None.

    Raises:
        ValueError: says what is wrong, without repeating the text.
    """
    ports: dict[str, int | None] = {}
    for item in text.split(","):
        name, equals, value = item.strip().partition("=")
        if not equals or not _PORT_NAME.fullmatch(name):
            raise ValueError("expected name=number or name=off, separated by commas")
        if name in ports:
            raise ValueError("a port appears twice")
        ports[name] = None if value == "off" else parse_port_untrusted(value)
    _check_ports(None, None, ports)
    return ports


def format_ports(ports: Mapping[str, int | None]) -> str:
    """What `parse_ports_untrusted` reads back."""
    return ",".join(f"{name}={'off' if port is None else port}" for name, port in ports.items())


def _split(text: str) -> dict[str, str]:
    if not text:
        raise ConnectionStringError("the connection string is empty")
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
                remedy=f"known are: {', '.join(_FIELDS)}",
            )
        if name in fields:
            raise _error(name, "appears twice")
        fields[name] = value.strip()
    return fields


def _parse_endpoint(text: str) -> str:
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        raise ValueError("expected hr://host/")
    if match["scheme"].lower() not in {"hr", "sb"}:
        raise ValueError("expected hr://host/ (or sb://host/); other schemes name other services")
    if match["rest"] not in {"", "/"}:
        raise ValueError("nothing follows the host: the hybrid connection's name goes into EntityPath")
    host = match["authority"]
    if "@" in host:
        raise ValueError("there is no user name in it")
    if host.startswith("[") and host.endswith("]") and ":" in host:
        return check_host(host[1:-1])
    if host.startswith("[") or ":" in host:
        raise ValueError("it has no port (ports go into Ports), and an IPv6 address stands in brackets")
    return check_host(host)


def _parse_private_key(text: str) -> Secret:
    decode_der_untrusted(text)
    return Secret(text)


def _parse_pins(text: str) -> tuple[str, ...]:
    pins = tuple(pin.strip() for pin in text.split(","))
    if len(pins) > MAX_RELAY_PINS:
        raise ValueError(f"at most {MAX_RELAY_PINS} pins")
    return tuple(check_pin(pin) for pin in pins)


def _error(name: str, problem: str) -> ConnectionStringError:
    return ConnectionStringError(f"the connection string's {name} {problem}", part=name)
