"""Sessions of browsers, and one-time codes: when they begin and end, and how many there are."""

from __future__ import annotations

import pytest

from hybridrelay.management.sessions import (
    CODE_SECONDS,
    SESSION_SECONDS,
    KeyCredential,
    Sessions,
    TokenCredential,
    digest_of,
)
from hybridrelay.security import KeySlot

NOW = 1000.0
TOKEN = TokenCredential("a" * 8)
A, B = digest_of("a"), digest_of("b")


@pytest.mark.parametrize(
    ("valid_for", "lasts"), [(1e9, SESSION_SECONDS), (SESSION_SECONDS, SESSION_SECONDS), (60.0, 60.0)]
)
def test_a_session_ends_after_eight_hours_and_not_after_its_token(valid_for: float, lasts: float) -> None:
    sessions = Sessions()
    assert sessions.begin(A, TOKEN, now=NOW, valid_until=NOW + valid_for).expires_at == NOW + lasts
    found = sessions.find(A, NOW + lasts - 0.1)
    assert found is not None
    assert found.credential == TOKEN
    assert sessions.find(A, NOW + lasts) is None
    assert len(sessions) == 0
    assert sessions.find(A, NOW) is None, "once it has ended, it does not come back"


def test_a_session_ends_when_it_is_ended() -> None:
    sessions = Sessions()
    for digest in (A, B):
        sessions.begin(digest, TOKEN, now=NOW, valid_until=NOW + 100)
    sessions.end(A)
    sessions.end(A)
    assert sessions.find(A, NOW) is None
    assert sessions.find(B, NOW) is not None


def test_a_credential_has_a_limited_number_of_sessions() -> None:
    sessions = Sessions()
    other = KeyCredential("orders", "all", KeySlot.PRIMARY, 7)
    sessions.begin(A, other, now=NOW, valid_until=NOW + 100)
    digests = [digest_of(str(number)) for number in range(17)]
    for number, digest in enumerate(digests):
        sessions.begin(digest, TOKEN, now=NOW + number, valid_until=NOW + 1000)
    assert sessions.find(digests[0], NOW + 20) is None, "the oldest made room"
    assert all(sessions.find(digest, NOW + 20) for digest in [A, *digests[1:]])


def test_the_number_of_sessions_is_limited() -> None:
    sessions = Sessions()
    for number in range(3000):
        credential = TokenCredential(f"{number:08}")
        sessions.begin(digest_of(str(number)), credential, now=NOW, valid_until=NOW + 100)
    assert len(sessions) == 1024
    sessions.begin(A, TOKEN, now=NOW + 100, valid_until=NOW + 200)
    assert len(sessions) == 1, "those that have expired are removed"


def test_a_code_can_be_used_once_and_for_five_minutes() -> None:
    sessions = Sessions()
    for digest in (A, B):
        sessions.add_code(digest, TOKEN, NOW)
    assert sessions.use_code(digest_of("c"), NOW) is None
    assert sessions.use_code(A, NOW + CODE_SECONDS - 0.1) == TOKEN
    assert sessions.use_code(A, NOW) is None
    assert sessions.use_code(B, NOW + CODE_SECONDS) is None
    assert sessions.use_code(B, NOW) is None


def test_the_number_of_codes_is_limited() -> None:
    sessions = Sessions()
    for number in range(65):
        sessions.add_code(digest_of(str(number)), TOKEN, NOW)
    assert sessions.use_code(digest_of("0"), NOW) is None
    assert sessions.use_code(digest_of("1"), NOW) == TOKEN
