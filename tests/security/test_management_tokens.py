"""Tokens of the management API: their format, and what is kept of them."""

from __future__ import annotations

import re

import pytest

from hybridrelay.security import (
    ManagementRole,
    check_scope,
    check_token_id,
    check_token_name,
    generate_management_token,
    parse_management_token_untrusted,
)

DAY = 86_400


def test_only_a_hash_is_kept() -> None:
    token, text = generate_management_token("ci", ManagementRole.VIEWER, scope="team/", now=1000.0)
    assert re.fullmatch(r"hrm_[A-Za-z0-9]{8}_[A-Za-z0-9]{43}", text.reveal())
    assert parse_management_token_untrusted(text.reveal()) == token.id
    assert (token.name, token.role, token.scope) == ("ci", ManagementRole.VIEWER, "team/")
    assert (token.created_at, token.expires_at, token.last_used_at) == (1000.0, 1000.0 + 30 * DAY, None)
    assert token.matches(text.reveal())
    assert not token.matches(text.reveal()[:-1])
    secret = text.reveal().rpartition("_")[2]
    assert secret.encode() not in token.digest
    assert secret not in f"{token!r} {text!r} {text}"
    assert token.digest.hex() not in repr(token)


def test_no_two_are_the_same() -> None:
    made = [generate_management_token("ci", ManagementRole.ADMIN, now=0.0) for _ in range(20)]
    assert len({token.id for token, _ in made}) == len({text.reveal() for _, text in made}) == 20
    assert not any(token.matches(text.reveal()) for token, _ in made[:10] for _, text in made[10:])


@pytest.mark.parametrize("seconds", [0, -1, 365 * DAY + 1, float("nan"), float("inf")])
def test_a_time_that_cannot_be(seconds: float) -> None:
    with pytest.raises(ValueError, match="365 days"):
        generate_management_token("ci", ManagementRole.ADMIN, now=0.0, seconds=seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hrm_",
        "hrm_12345678_",
        "hrm_1234567_" + "a" * 43,
        "hrm_12345678_" + "a" * 44,
        "hrm_1234567é_" + "a" * 43,
        "HRM_12345678_" + "a" * 43,
        "hrm_12345678_" + "a" * 43 + "\n",
    ],
)
def test_what_cannot_be_a_token(text: str) -> None:
    assert parse_management_token_untrusted(text) is None


@pytest.mark.parametrize("name", ["", "-a", "a b", "a" * 65, "é", "a\n", "a/b"])
def test_what_cannot_be_the_name_of_a_token(name: str) -> None:
    with pytest.raises(ValueError, match="name of a token"):
        check_token_name(name)


@pytest.mark.parametrize("prefix", ["a b", "a" * 261, "é", "a\n", "*"])
def test_what_cannot_be_a_scope(prefix: str) -> None:
    with pytest.raises(ValueError, match="scope"):
        check_scope(prefix)
    assert check_scope("team/") == "team/"


@pytest.mark.parametrize("id_", ["", "a" * 7, "a" * 9, "aaaaaaa/", "aaaaaaaé"])
def test_what_cannot_be_an_id(id_: str) -> None:
    with pytest.raises(ValueError, match="id of a token"):
        check_token_id(id_)
