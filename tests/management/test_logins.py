"""Logins of browsers, and one-time codes: when they begin and end, and how many there are."""

from __future__ import annotations

import pytest

from hybridrelay.management.logins import (
    CODE_SECONDS,
    LOGIN_SECONDS,
    KeyCredential,
    Logins,
    TokenCredential,
    digest_of,
)
from hybridrelay.security import KeySlot

NOW = 1000.0
TOKEN = TokenCredential("a" * 8)
A, B = digest_of("a"), digest_of("b")


@pytest.mark.parametrize(("valid_for", "lasts"), [(1e9, LOGIN_SECONDS), (LOGIN_SECONDS, LOGIN_SECONDS), (60.0, 60.0)])
def test_a_login_ends_after_eight_hours_and_not_after_its_token(valid_for: float, lasts: float) -> None:
    logins = Logins()
    assert logins.begin(A, TOKEN, now=NOW, valid_until=NOW + valid_for).expires_at == NOW + lasts
    found = logins.find(A, NOW + lasts - 0.1)
    assert found is not None
    assert found.credential == TOKEN
    assert logins.find(A, NOW + lasts) is None
    assert len(logins) == 0
    assert logins.find(A, NOW) is None, "once it has ended, it does not come back"


def test_a_login_ends_when_it_is_ended() -> None:
    logins = Logins()
    for digest in (A, B):
        logins.begin(digest, TOKEN, now=NOW, valid_until=NOW + 100)
    logins.end(A)
    logins.end(A)
    assert logins.find(A, NOW) is None
    assert logins.find(B, NOW) is not None


def test_a_credential_has_a_limited_number_of_logins() -> None:
    logins = Logins()
    other = KeyCredential("orders", "all", KeySlot.PRIMARY, 7)
    logins.begin(A, other, now=NOW, valid_until=NOW + 100)
    digests = [digest_of(str(number)) for number in range(17)]
    for number, digest in enumerate(digests):
        logins.begin(digest, TOKEN, now=NOW + number, valid_until=NOW + 1000)
    assert logins.find(digests[0], NOW + 20) is None, "the oldest made room"
    assert all(logins.find(digest, NOW + 20) for digest in [A, *digests[1:]])


def test_making_more_keys_ends_no_logins_of_others() -> None:
    """A key with Manage can be regenerated with its own signature, and each generation is another credential."""
    logins = Logins()
    logins.begin(A, TOKEN, now=NOW, valid_until=NOW + 1000)
    for number in range(3000):
        key = KeyCredential("orders", f"rule-{number % 12}", KeySlot.PRIMARY, number)
        logins.begin(digest_of(str(number)), key, now=NOW + 1, valid_until=NOW + 1000)
    assert len(logins) == 17
    for number in range(3000):  # the same with keys of very many hybrid connections
        key = KeyCredential(f"many/{number % 100}", "all", KeySlot.PRIMARY, number)
        logins.begin(digest_of(f"many {number}"), key, now=NOW + 1, valid_until=NOW + 1000)
    assert len(logins) == 1024
    assert logins.find(A, NOW + 1) is not None


def test_the_number_of_logins_is_limited() -> None:
    logins = Logins()
    for number in range(3000):
        credential = TokenCredential(f"{number:08}")
        logins.begin(digest_of(str(number)), credential, now=NOW, valid_until=NOW + 100)
    assert len(logins) == 1024
    logins.begin(A, TOKEN, now=NOW + 100, valid_until=NOW + 200)
    assert len(logins) == 1, "those that have expired are removed"


def test_a_code_can_be_used_once_and_for_five_minutes() -> None:
    logins = Logins()
    for digest in (A, B):
        logins.add_code(digest, TOKEN, NOW)
    assert logins.use_code(digest_of("c"), NOW) is None
    assert logins.use_code(A, NOW + CODE_SECONDS - 0.1) == TOKEN
    assert logins.use_code(A, NOW) is None
    assert logins.use_code(B, NOW + CODE_SECONDS) is None
    assert logins.use_code(B, NOW) is None


def test_the_number_of_codes_is_limited() -> None:
    logins = Logins()
    for number in range(65):
        logins.add_code(digest_of(str(number)), TOKEN, NOW)
    assert logins.use_code(digest_of("0"), NOW) is None
    assert logins.use_code(digest_of("1"), NOW) == TOKEN
