"""Which changes of a connection string a running program applies."""

from __future__ import annotations

import time
from typing import TypedDict, Unpack

import attrs
import pytest

from hybridrelay.errors import ConfigurationError
from hybridrelay.security import (
    ConnectionString,
    Endpoint,
    HostPort,
    Identity,
    Role,
    Secret,
    create_authority,
    create_issuer,
    generate_key,
    make_request,
    new_private_key,
    parse_request_untrusted,
    update_string,
)

NOW = time.time()
AUTHORITY = create_authority("orders", now=NOW)
PIN = "sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


class Changes(TypedDict, total=False):
    """The fields of a connection string that these tests change."""

    endpoints: tuple[Endpoint, ...]
    key_name: str
    key: Secret
    entity_path: str
    relay_pins: tuple[str, ...]
    target: HostPort | None


def string(**changes: Unpack[Changes]) -> ConnectionString:
    made = ConnectionString(
        endpoints=(Endpoint("relay.example.com"),),
        key_name="listener",
        key=generate_key(),
        entity_path="orders",
        target=HostPort("db", 1),
        identity=AUTHORITY.issue(Role.CONNECTOR, "x", now=NOW),
        authority=AUTHORITY.certificate,
    )
    return attrs.evolve(made, **changes)


CURRENT = string()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "unchanged"),
        ({"key": generate_key()}, "now uses the changed shared access key"),
        ({"key_name": "other"}, "now uses the changed shared access key"),
        ({"endpoints": (Endpoint("relay.example.com", {"http": 8080}),)}, "now uses the changed relays"),
        ({"relay_pins": (PIN,)}, "now uses the changed relay pins"),
        ({"target": HostPort("db", 2)}, "now uses the changed target"),
        (
            {"target": HostPort("db", 2), "key": generate_key()},
            "now uses the changed shared access key, target",
        ),
    ],
)
def test_what_is_taken_up(changes: Changes, says: str) -> None:
    new = attrs.evolve(CURRENT, **changes)
    update = update_string(CURRENT, new)

    assert update.string == new
    assert str(update) == says
    assert update.key_changed == ("key" in says)
    assert update.needs_restart == ()


def test_another_identity_is_not(caplog: pytest.LogCaptureFixture) -> None:
    """Sessions that are open could not resume with it."""
    new = string(key=CURRENT.key, target=HostPort("db", 2))
    update = update_string(CURRENT, new)

    assert update.string == attrs.evolve(CURRENT, target=HostPort("db", 2))
    assert str(update) == "now uses the changed target; the changed identity needs a restart"


@pytest.mark.parametrize("changes", [{"entity_path": "billing"}, {"target": None}])
def test_what_is_refused(changes: Changes) -> None:
    with pytest.raises(ConfigurationError):
        update_string(CURRENT, attrs.evolve(CURRENT, **changes))


def test_no_secret_is_reported() -> None:
    update = update_string(CURRENT, string())

    assert update.string.key.reveal() not in repr(update) + str(update)


def test_an_earlier_identity_does_not_replace_a_renewed_one() -> None:
    """The file could not be written when the identity was renewed, and is read again."""
    issuer = create_issuer(AUTHORITY, now=NOW)

    def issued(label: str, seconds: float) -> ConnectionString:
        key = new_private_key()
        answer = issuer.sign(AUTHORITY.connection_name, label, parse_request_untrusted(make_request(key)), now=NOW,
                             seconds=seconds)  # fmt: skip
        identity = Identity(answer.certificate, key, answer.issuer)
        return attrs.evolve(CURRENT, target=None, identity=identity, authority=AUTHORITY.certificate)

    early, late, other = issued("a", 60), issued("a", 90), issued("b", 60)
    assert update_string(late, early).needs_restart == ()
    assert update_string(late, early).string == late
    assert update_string(early, late).needs_restart == ("identity",)
    assert update_string(late, other).needs_restart == ("identity",)
    plain = attrs.evolve(early, identity=AUTHORITY.issue(Role.APPLICATION, "a", now=NOW))
    assert update_string(late, plain).needs_restart == ("identity",)
    assert update_string(plain, late).needs_restart == ("identity",)
