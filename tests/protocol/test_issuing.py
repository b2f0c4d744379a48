"""The messages by which an identity is requested."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.protocol.issuing import (
    MAX_ISSUE_ANSWER,
    MAX_ISSUE_REQUEST,
    Issued,
    IssueRefused,
    IssueRequest,
    parse_issue_answer_untrusted,
    parse_issue_request_untrusted,
)
from hybridrelay.protocol.reasons import Reason


@given(st.binary(max_size=1024))
def test_a_request_arrives(data: bytes) -> None:
    assert parse_issue_request_untrusted(IssueRequest(data).encode()) == IssueRequest(data)


@given(st.binary(max_size=4000), st.binary(max_size=4000))
def test_an_answer_arrives(certificate: bytes, issuer: bytes) -> None:
    answer = Issued(certificate, issuer)
    assert parse_issue_answer_untrusted(answer.encode()) == answer


@pytest.mark.parametrize("reason", [Reason.CLAIM_USED, Reason.ISSUE_REFUSED, Reason.LIMIT])
def test_a_refusal_arrives(reason: Reason) -> None:
    assert parse_issue_answer_untrusted(IssueRefused(reason, "why").encode()) == IssueRefused(reason, "why")


def test_what_a_peer_says_cannot_spoil_a_terminal() -> None:
    parsed = parse_issue_answer_untrusted(IssueRefused(Reason.LIMIT, "\x1b[2J" + "x" * 500).encode())
    assert isinstance(parsed, IssueRefused)
    assert parsed.detail.startswith("?[2J")
    assert len(parsed.detail) == 300


def test_members_and_reasons_of_later_versions() -> None:
    text = json.dumps({"version": 1, "refused": "of-a-later-version", "more": [1]}).encode()
    assert parse_issue_answer_untrusted(text) == IssueRefused(Reason.INTERNAL_ERROR)


WRONG = [
    b"", b"{", b"[]", b"null", b"\xff", b'{"version": 2, "request": "AA=="}', b'{"version": true, "request": "AA=="}',
    b'{"version": 1}', b'{"version": 1, "request": 5}', b'{"version": 1, "request": "?"}',
    '{"version": 1, "request": "é"}'.encode(), b"[" * 4000,
]  # fmt: skip


@pytest.mark.parametrize("data", [*WRONG, b" " * (MAX_ISSUE_REQUEST + 1)])
def test_a_malformed_request_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_issue_request_untrusted(data)


@pytest.mark.parametrize(
    "data",
    [
        *WRONG, b" " * (MAX_ISSUE_ANSWER + 1), b'{"version": 1, "refused": 5}',
        b'{"version": 1, "certificate": "AA=="}',
        b'{"version": 1, "refused": "limit", "detail": []}',
    ],
)  # fmt: skip
def test_a_malformed_answer_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_issue_answer_untrusted(data)


@given(st.binary(max_size=200))
def test_any_other_bytes_raise_nothing_but_value_error(data: bytes) -> None:
    for parse in (parse_issue_request_untrusted, parse_issue_answer_untrusted):
        with pytest.raises(ValueError, match=r"\w"):
            parse(data)
