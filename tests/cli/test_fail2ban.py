"""The filter for fail2ban in docs/fail2ban: it finds refused keys in the log, and nobody can forge such a line."""

from __future__ import annotations

import configparser
import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.cli.logs import LineFormatter
from hybridrelay.events import (
    ChannelFailed,
    Event,
    InternalError,
    ManagementAuthenticationFailed,
    ManagementCallRefused,
    SenderRefused,
    TokenInvalid,
    TokenRefused,
    event_fields,
    event_text,
)
from hybridrelay.protocol.reasons import Reason

DIRECTORY = Path(__file__).parents[2] / "docs" / "fail2ban"
#: What fail2ban puts in place of <SUBNET>, and before every line in a file: the name of a host, and of a program.
SUBNET = r"(?P<ip>(?:[0-9]{1,3}\.){3}[0-9]{1,3}|[0-9a-fA-F:]*:[0-9a-fA-F:.]+)(?:/(?P<cidr>[0-9]+))?"
PREFIX = r"\s*(?:\S+\s+)?(?:hybridrelay(?:\[\d+\])?:?\s+)?"
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def _patterns() -> list[re.Pattern[str]]:
    parser = configparser.ConfigParser()
    parser.read(DIRECTORY / "filter.d" / "hybridrelay.conf")
    parser.set("Definition", "__prefix_line", PREFIX)
    lines = parser.get("Definition", "failregex").splitlines()
    return [re.compile(line.replace("<SUBNET>", SUBNET)) for line in lines]


PATTERNS = _patterns()


def banned(log: str, *, journal: bool = False) -> list[str]:
    """The addresses that fail2ban finds in a log."""
    found = []
    # fail2ban cuts the time out of a line of a file, and reads no line without one. The journal has its own times.
    for line in log.split("\n"):
        if not journal and not TIME.match(line):
            continue
        text = f"host hybridrelay[77]: {line}" if journal else TIME.sub("", line)
        matches = filter(None, (pattern.search(text) for pattern in PATTERNS))
        found += [match["ip"] + (f"/{match['cidr']}" if match["cidr"] else "") for match in matches]
    return found


def logged(event: Event) -> str:
    """The line as the log shows it."""
    exception = getattr(event, "exception", None)
    record = logging.makeLogRecord(
        {
            "name": "hybridrelay.events", "msg": "%s", "args": (event_text(event),), "levelno": int(event.level),
            "levelname": logging.getLevelName(int(event.level)), "event": event.name, "fields": event_fields(event),
            "exc_info": (type(exception), exception, None) if isinstance(exception, Exception) else None,
        }
    )  # fmt: skip
    return LineFormatter().format(record)


def refusal(connection: str, peer: str, detail: str) -> TokenInvalid:
    return TokenInvalid(connection=connection, peer=peer, right="send", reason=Reason.WRONG_KEY, detail=detail)


VICTIM = "198.51.100.1"
FORGED = logged(refusal("orders", VICTIM, "")).partition(" ")[2].lstrip()
#: Texts of which a hostile peer may hope something.
_HOSTILE = st.text() | st.lists(
    st.sampled_from(
        ["\n", "\r", "\u2028", "\x85", "\0", " ", "'", '"', "\\", "x", f"peer={VICTIM}", f"peer={VICTIM} ", FORGED,
         "2026-11-29T11:33:11.960Z ", "warning ", "token.invalid: ", "A token is invalid: ", "connection=", "a' ",
         logged(refusal("orders", VICTIM, ""))]
    )
).map("".join)  # fmt: skip


@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize("peer", ["192.0.2.7", "2001:db8:0:1::/64"])
def test_refused_keys_are_found(journal: bool, peer: str) -> None:
    common = {"connection": "team/orders", "peer": peer, "right": "listen", "detail": "the key's rule has no Listen"}
    for event in (
        refusal("orders", peer, "the signature is wrong"),
        refusal("", peer, ""),
        *(
            TokenRefused(reason=reason, **common)
            for reason in (Reason.RIGHT_MISSING, Reason.UNKNOWN_CONNECTION, Reason.UNKNOWN_RULE, Reason.KEY_REVOKED)
        ),
        ManagementAuthenticationFailed(peer=peer, detail="the token is unknown, or was revoked"),
    ):
        assert banned(logged(event), journal=journal) == [peer], logged(event)


@given(_HOSTILE)
def test_programs_that_use_a_disabled_hybrid_connection_are_not_found(detail: str) -> None:
    """They are told to try again."""
    event = TokenRefused(
        connection="orders", peer="192.0.2.7", right="send", reason=Reason.CONNECTION_DISABLED, detail=detail
    )
    assert "reason=connection-disabled" in logged(event)
    assert banned(logged(event)) == []


def test_what_has_no_address_is_not_found() -> None:
    for event in (
        refusal("orders", "local", "the signature is wrong"),
        ManagementAuthenticationFailed(peer="local", detail="the token is unknown"),
        SenderRefused(connection="orders", peer="192.0.2.7", reason=Reason.NO_LISTENER),
    ):
        assert banned(logged(event)) == []


@given(_HOSTILE, _HOSTILE, st.booleans())
def test_no_text_in_another_field_forges_an_address(connection: str, detail: str, journal: bool) -> None:
    peer = "192.0.2.7"
    assert banned(logged(refusal(connection, peer, detail)), journal=journal) == [peer]
    failed = ManagementAuthenticationFailed(peer=peer, detail=detail)
    assert banned(logged(failed), journal=journal) == [peer]
    for other in (
        SenderRefused(connection=connection, peer=peer, reason=Reason.NO_LISTENER, detail=detail),
        ChannelFailed(peer=peer, port="http", detail=detail),
        ManagementCallRefused(
            operation_id="getRelay", peer=peer, request_id="1", connection=connection, rule=detail, status=401
        ),
        InternalError(where=detail, connection=connection, exception=ValueError(detail)),
    ):
        assert banned(logged(other), journal=journal) == []


def test_lines_that_were_left_out_are_not_found_in_the_count() -> None:
    record = logging.makeLogRecord(
        {
            "name": "hybridrelay.events", "levelno": logging.WARNING, "levelname": "WARNING",
            "msg": f"5 more lines like this were left out in 20 s: {event_text(refusal('orders', VICTIM, ''))}",
        }
    )  # fmt: skip
    assert banned(LineFormatter().format(record)) == []


def test_the_jail_uses_the_filter() -> None:
    parser = configparser.ConfigParser()
    parser.read(DIRECTORY / "jail.d" / "hybridrelay.conf")
    assert parser.get("hybridrelay", "filter") == "hybridrelay"
