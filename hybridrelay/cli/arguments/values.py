"""Parses the values of arguments: addresses, names, ports. argparse shows the errors that the functions raise."""

# This module is long because it has a small function for each kind of value.

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import functools
import re
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from ..._datagram_address import DatagramAddress
from ..._own_address import OWN_FORMS, EveryPort
from ..._unix_address import UnixAddress, parse_unix_address

if TYPE_CHECKING:
    from ...security import HostTarget, ManagementUrl, Networks, Right, Target

T = TypeVar("T")

#: One entry of ``--ports``: an address (None means those of ``--host``) and a port (0 means any free port); or None
#: for a port that is off.
PortOption = tuple[str | None, int] | None

_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")

PORTS_FORM = "expected name=number, name=address:number or name=off, separated by commas"


def _argument(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Wrap a parser so that argparse shows the message of its ValueError."""

    @functools.wraps(parse)
    def convert(text: str) -> T:
        try:
            return parse(text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(str(exc)) from None

    return convert


@_argument
def host(text: str) -> str:
    """Parse a host name or an address to listen on; IPv6 with or without brackets."""
    return _host_alone(text, "--ports")


@_argument
def endpoint(text: str) -> str:
    """Parse the host name or address of a relay; IPv6 with or without brackets."""
    return _host_alone(text, "--public-ports")


@_argument
def listen_address(text: str) -> tuple[str, int]:
    """Parse ``address:port`` or ``[IPv6]:port``; port 0 means any free port."""
    return _split_address(text)


@_argument
def local_address(text: str) -> tuple[str, int] | DatagramAddress | EveryPort | UnixAddress | str:
    """Parse what `listen_address` parses; ``address:*``; or ``own``, which is returned as it is. Each may end with
    ``/udp`` or ``/tcp+udp`` for datagrams. Or parse ``unix:/path``."""
    if text in OWN_FORMS:
        return text
    if text.startswith("unix:"):
        return parse_unix_address(text)
    for suffix, with_streams in (("/udp", False), ("/tcp+udp", True), ("", True)):
        if text.endswith(f":*{suffix}"):
            host, _ = _split_address(f"{text.removesuffix(f'*{suffix}')}0")
            return EveryPort(host, with_streams, bool(suffix))
        if suffix and text.endswith(suffix):
            return DatagramAddress(*_split_address(text.removesuffix(suffix)), with_streams)
    return _split_address(text)


@_argument
def address_with_port(text: str) -> tuple[str, int]:
    """Parse ``address:port``; port 0 is allowed."""
    return _split_address(text)


@_argument
def front_address(text: str) -> tuple[str, int] | UnixAddress:
    """Parse what `listen_address` parses, or ``unix:/path``."""
    return parse_unix_address(text) if text.startswith("unix:") else _split_address(text)


@_argument
def status_address(text: str) -> Path | tuple[str, int]:
    """Parse the place where a status is served: ``address:port``, or the path of a Unix socket."""
    if "/" in text or ":" not in text:
        if not text:
            raise ValueError("expected a path, or an address and a port")
        return path(text)
    return _split_address(text)


@_argument
def target(text: str) -> Target:
    r"""Parse a target: ``host:port``, ``host:port,port-port``, either with ``/udp`` or ``/tcp+udp``,
    ``host\instance``, or ``unix:/path``."""
    from ...security import parse_target_untrusted

    return parse_target_untrusted(text)


@_argument
def local_name(text: str) -> HostTarget | Literal["none"]:
    """Parse a local name, or ``none``."""
    from ...security import NO_LOCAL_NAME, parse_local_name_untrusted

    return NO_LOCAL_NAME if text == NO_LOCAL_NAME else parse_local_name_untrusted(text)


@_argument
def published_name(text: str) -> HostTarget:
    """Parse the name and ports under which an application knows a target."""
    from ...security import parse_local_name_untrusted

    return parse_local_name_untrusted(text)


@_argument
def user_name(text: str) -> str:
    """Check the name of a user of the system, as useradd accepts it."""
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", text):
        raise ValueError("expected the name of a user: a-z 0-9 _ -, at most 32 characters")
    return text


@_argument
def credential(text: str) -> str:
    """Check the name of a credential of systemd (``LoadCredential=``)."""
    if text in ("", ".", "..") or "/" in text or "\0" in text:
        raise ValueError("expected the name of a credential, which is a file name without a directory")
    return text


@_argument
def connection_name(text: str) -> str:
    """Check the name of a hybrid connection."""
    from ...security import check_connection_name

    return check_connection_name(text)


@_argument
def label(text: str) -> str:
    """Check the label of an identity."""
    from ...security import check_label

    return check_label(text)


@_argument
def rule_name(text: str) -> str:
    """Check the name of a rule."""
    from ...security import check_rule_name

    return check_rule_name(text)


@_argument
def token_name(text: str) -> str:
    """Check the name of a token of the management API."""
    from ...security import check_token_name

    return check_token_name(text)


@_argument
def management_url(text: str) -> ManagementUrl:
    """Parse the URL of a management API."""
    from ...security import parse_management_url_untrusted

    return parse_management_url_untrusted(text)


@_argument
def token_file(text: str) -> str:
    """Check the path of a file with a token, or - for standard input."""
    if text.startswith(("hrm_", "SharedAccessSignature", "Bearer ")):
        raise ValueError(
            "expected the name of a file, not the token itself, which other users can see in the list of processes: "
            "revoke it, and write a new one to a file"
        )
    return path_or_stdin(text)


@_argument
def scope(text: str) -> str:
    """Check a prefix of names of hybrid connections."""
    from ...security import check_scope

    return check_scope(text)


@_argument
def lifetime(text: str) -> float:
    """Parse the lifetime of a token, such as ``12h`` or ``30d``. Returns seconds."""
    match = re.fullmatch(r"([0-9]{1,4})([hd])", text)
    seconds = 0 if match is None else int(match[1]) * {"h": 3_600, "d": 86_400}[match[2]]
    if not 0 < seconds <= 365 * 86_400:
        raise ValueError("expected hours or days, such as 12h or 30d: at least 1h, at most 365d")
    return float(seconds)


@_argument
def event_number(text: str) -> int:
    """Parse the number of an event."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise ValueError("expected the number of an event, as --json shows it")
    return int(text)


@_argument
def moment(text: str) -> float:
    """Parse a time: an age (``30m``, ``12h``, ``7d``), a date, or a date and time, in UTC unless it has an offset.
    Returns seconds since 1970."""
    match = re.fullmatch(r"([0-9]{1,4})([mhd])", text)
    if match is not None and int(match[1]) > 0:
        return time.time() - int(match[1]) * {"m": 60, "h": 3_600, "d": 86_400}[match[2]]
    if re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:|$)", text):
        with contextlib.suppress(ValueError, OverflowError):
            parsed = dt.datetime.fromisoformat(text)
            found = (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=dt.UTC)).timestamp()
            if found >= 0:
                return found
    raise ValueError("expected a time such as 30m, 12h or 7d ago, 2026-01-31, or 2026-01-31T12:00 (UTC)")


@_argument
def claim_lifetime(text: str) -> float:
    """Parse for how long a claim can be taken. Returns seconds."""
    match = re.fullmatch(r"([0-9]{1,5})([mhd])", text)
    seconds = 0 if match is None else int(match[1]) * {"m": 60, "h": 3_600, "d": 86_400}[match[2]]
    if not 0 < seconds <= 7 * 86_400:
        raise ValueError("expected a time such as 30m, 12h or 7d: at most 7d")
    return float(seconds)


@_argument
def grace(text: str) -> float:
    """Parse for how long an old key stays valid at most. Returns seconds."""
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    seconds = 0 if match is None else int(match[1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[match[2]]
    if not 10 <= seconds <= 30 * 86_400:
        raise ValueError("expected a time such as 30m, 12h or 7d: at least 10s, at most 30d")
    return float(seconds)


@_argument
def update_lifetime(text: str) -> float:
    """Parse for how long a relay may deliver an update, or how long to wait before it is used. Returns seconds."""
    match = re.fullmatch(r"([0-9]{1,5})([mhd])", text)
    seconds = 0 if match is None else int(match[1]) * {"m": 60, "h": 3_600, "d": 86_400}[match[2]]
    if not 0 < seconds <= 400 * 86_400:
        raise ValueError("expected a time such as 30m, 12h or 90d: at most 400d")
    return float(seconds)


@_argument
def serial(text: str) -> str:
    """Parse the serial number of an identity."""
    digits = text.replace(":", "").upper()
    if not re.fullmatch(r"[0-9A-F]{1,40}", digits):
        raise ValueError("expected the serial number of an identity in hexadecimal, as logs show it")
    return digits


@_argument
def note(text: str) -> str:
    """Check the note of a claim."""
    if len(text) > 128 or not text.isprintable():
        raise ValueError("a note has at most 128 printable characters")
    return text


@_argument
def rights(text: str) -> frozenset[Right]:
    """Parse rights of a rule, separated by commas, in upper or lower case."""
    from ...security import Right

    known = {right.lower(): right for right in Right}
    names = [name.strip().lower() for name in text.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{unknown[0]!r} is not a right; the rights are {', '.join(known)}")
    return frozenset(known[name] for name in names)


@_argument
def pin(text: str) -> str:
    """Check a pin: ``sha256:...``."""
    from ...security import check_pin

    return check_pin(text)


@_argument
def years(text: str) -> float:
    """Parse a number of years: more than 0, at most 100."""
    value = _decimal(text, "years")
    if not 0 < value <= 100:
        raise ValueError("expected more than 0 and at most 100 years")
    return value


def seconds(low: float, high: float = 86_400) -> Callable[[str], float]:
    """Make a parser of durations from `low` to `high` seconds.

    A duration consists of decimal digits, optionally with a point; signs, exponents and ``inf`` are not accepted.
    """

    @_argument
    def parse(text: str) -> float:
        value = _decimal(text, "seconds")
        if not low <= value <= high:
            raise ValueError(f"expected {low:g} to {high:g} seconds")
        return value

    return parse


@_argument
def count(text: str) -> int:
    """Parse a number in ASCII digits, at least 1."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 7 and int(text) >= 1):
        raise ValueError("expected a number from 1 to 9999999, in digits")
    return int(text)


@_argument
def count_or_zero(text: str) -> int:
    """Parse a number in ASCII digits, at least 0."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 7):
        raise ValueError("expected a number from 0 to 9999999, in digits")
    return int(text)


@_argument
def networks(text: str) -> Networks:
    """Parse addresses and networks, separated by commas."""
    from ...security import parse_networks_untrusted

    return parse_networks_untrusted(text)


@_argument
def count_or_none(text: str) -> int:
    """Parse a number in ASCII digits, at least 1, or ``none``, which is returned as 0."""
    if text == "none":
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) <= 7 and int(text) >= 1):
        raise ValueError("expected a number from 1 to 9999999, in digits, or none")
    return int(text)


@_argument
def size_or_none(text: str) -> int:
    """Parse a number of bytes, such as ``500MB`` (powers of 1000), or ``none``, which is returned as 0."""
    if text == "none":
        return 0
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,3})?) ?(B|KB|MB|GB|TB|PB)?", text, re.ASCII | re.IGNORECASE)
    if match is None:
        raise ValueError("expected a number of bytes, such as 500MB or 1.5TB, or none")
    found: int = round(float(match[1]) * 1000.0 ** _UNITS.index((match[2] or "B").upper()))
    if not 1 <= found < 2**53:
        raise ValueError("expected at least 1 byte, and less than 9 PB")
    return found


@_argument
def path_prefix(text: str) -> str:
    """Parse a prefix of paths in URLs."""
    from ...http_options import check_path_prefix

    return check_path_prefix(text)


@_argument
def public_ports(text: str) -> Mapping[str, int | None]:
    """Parse ``name=number,name=off``; an empty text means the default ports."""
    from ...security import parse_ports_untrusted

    return parse_ports_untrusted(text) if text else {}


@_argument
def ports(text: str) -> Mapping[str, PortOption]:
    """Parse ``name=number,name=address:number,name=off``."""
    found: dict[str, PortOption] = {}
    for item in text.split(","):
        name, equals, value = item.strip().partition("=")
        if not equals or not name:
            raise ValueError(PORTS_FORM)
        if name in found:
            raise ValueError(f"port {name} appears twice")
        found[name] = port_option(value)
    return found


def port_option(value: str) -> PortOption:
    """Parse the part of an entry after ``name=``.

    Raises:
        ValueError: the text is not valid; the message says why.
    """
    if value == "off":
        return None
    if ":" in value:
        return _split_address(value)
    return None, _port(value)


@_argument
def command(text: str) -> tuple[str, ...]:
    """Parse a program and its arguments, quoted as in a shell."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"the quotes do not match: {exc}") from None
    if not words:
        raise argparse.ArgumentTypeError("expected a command")
    return words


@_argument
def path(text: str) -> Path:
    """Parse a path: any text without a NUL character."""
    if "\0" in text:
        raise ValueError("a path contains no NUL character")
    return Path(text)


@_argument
def path_or_stdin(text: str) -> str:
    """Check a path, or - for standard input."""
    if "\0" in text:
        raise ValueError("a path contains no NUL character")
    return text


def _split_address(text: str) -> tuple[str, int]:
    """Parse an address to listen on: like `parse_host_port_untrusted`, but port 0 is allowed."""
    from ...security import parse_host_port_untrusted

    address, colon, number = text.rpartition(":")
    if not colon or "://" in text:
        parsed = parse_host_port_untrusted(text)  # raises an error that says what is wrong
        return parsed.host, parsed.port
    host = parse_host_port_untrusted(f"{address}:1").host
    return host, _port_number(number)


def _host_alone(text: str, ports_option: str) -> str:
    from ...security.names import parse_host_untrusted

    return parse_host_untrusted(text, about_ports=f"{ports_option} is for ports")


def _port(text: str) -> int:
    try:
        return _port_number(text)
    except ValueError as exc:
        raise ValueError(f"{exc}, or off") from None


def _port_number(text: str) -> int:
    from ...security.names import parse_port_untrusted

    try:
        return 0 if text == "0" else parse_port_untrusted(text)
    except ValueError:
        raise ValueError("expected a port number up to 65535 (0: any free port)") from None


def _decimal(text: str, unit: str) -> float:
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"expected a number of {unit} in digits, such as 5 or 0.5")
    return float(text)
