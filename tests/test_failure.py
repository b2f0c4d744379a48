"""Failures: typed values with a text and a remedy, which exceptions carry from where they were raised."""

from __future__ import annotations

import errno
import ssl
from pathlib import Path

import pytest
import trio

from hybridrelay.errors import TLSHandshakeError, TransportError, UpgradeRefused
from hybridrelay.failure import Failure, FailureKind, Step, lost_connection
from hybridrelay.protocol.reasons import Reason

K = FailureKind


def broken(cause: BaseException | None = None) -> trio.BrokenResourceError:
    error = trio.BrokenResourceError()
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (broken(), K.CLOSED_EARLY),
        (broken(broken()), K.CLOSED_EARLY),
        (broken(OSError(errno.ECONNRESET, "x")), K.RESET),
        (broken(OSError(errno.EPIPE, "x")), K.RESET),
        (broken(broken(OSError(errno.ECONNRESET, "x"))), K.RESET),
        (ConnectionResetError(errno.ECONNRESET, "x"), K.RESET),
        (broken(ssl.SSLError(1, "x")), K.TLS_FAILED),
        (broken(ssl.SSLCertVerificationError(1, "x")), K.WRONG_IDENTITY),
    ],
)
def test_a_connection_that_broke(error: BaseException, kind: FailureKind) -> None:
    assert lost_connection(error) == Failure.of(kind)
    carried = TransportError.lost("broke in the middle", error).failure
    assert (carried.kind, carried.text) == (kind, "broke in the middle")
    assert TLSHandshakeError.lost("x", error).failure.kind is kind


def test_errors_carry_their_failure() -> None:
    failure = TransportError("HTTP status 407", remedy="log in").failure
    assert (failure.kind, failure.text, failure.remedy) == (K.NOT_A_RELAY, "HTTP status 407", "log in")
    assert TransportError("x").failure.remedy == Failure.of(K.NOT_A_RELAY).remedy
    assert TransportError.lost("closed").failure.kind is K.CLOSED_EARLY
    refused = UpgradeRefused("refused", status=502).failure
    assert (refused.kind, refused.http_status) == (K.NOT_A_RELAY, 502)
    assert TLSHandshakeError("x").failure == Failure.of(K.TLS_FAILED)
    assert TLSHandshakeError("x", untrusted="self-signed certificate").failure == Failure.of(K.WRONG_IDENTITY)


@pytest.mark.parametrize("kind", [kind for kind in K if kind not in (K.OTHER, K.REFUSED_BY_RELAY)])
def test_every_kind_says_what_to_do(kind: FailureKind) -> None:
    failure = Failure.of(kind)
    assert failure.text
    assert failure.remedy


def test_the_relays_own_reason_is_kept() -> None:
    assert Failure.from_status(Reason.BUSY).text == Reason.BUSY.describe
    assert Failure.from_status(Reason.BUSY).reason is Reason.BUSY
    mismatch = Failure.from_status(Reason.VERSION_MISMATCH)
    assert mismatch.kind is K.VERSION_MISMATCH
    for status in Reason:
        failure = Failure.from_status(status)
        assert failure.reason is not None
        assert not failure.reason.is_permanent, "nothing authenticates a status"
        assert failure.reason is not Reason.LISTENER_GONE


def test_the_first_step_that_is_named_stays() -> None:
    failure = Failure.of(K.REFUSED).at(Step.DIAL)
    assert failure.at(Step.TRANSPORT).step is Step.DIAL


def test_an_address_that_answered_tells_more_than_one_that_cannot_be_reached() -> None:
    kinds = [K.UNREACHABLE, K.OTHER, K.REFUSED, K.WRONG_IDENTITY, K.DROPPED, K.NOT_A_RELAY]
    ordered = sorted(kinds, key=lambda kind: -Failure.of(kind).specificity)
    assert ordered == [K.WRONG_IDENTITY, K.NOT_A_RELAY, K.REFUSED, K.DROPPED, K.UNREACHABLE, K.OTHER]


def test_the_documentation_explains_every_kind_and_step() -> None:
    text = (Path(__file__).parents[1] / "docs" / "connectivity.md").read_text("utf-8")
    reasons = text[text.index("The reasons, as `--json` names them") :]
    for name in [*map(str, FailureKind), *map(str, Step)]:
        assert f"`{name}`" in reasons, name
