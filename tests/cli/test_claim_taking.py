"""Taking a claim at the first start: what is tried again, and what ends the program."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from hybridrelay.administration.provisioning import provision
from hybridrelay.cli import claim_taking
from hybridrelay.client import ClientConfig
from hybridrelay.errors import (
    AuthorizationError,
    ConfigurationError,
    DeniedByPolicy,
    HybridRelayError,
    PeerIdentityError,
    RelayIdentityError,
    RelayUnreachable,
    RendezvousError,
    SessionError,
    StreamRefused,
)
from hybridrelay.protocol.issuing import Issued
from hybridrelay.protocol.reasons import Duration, Reason
from hybridrelay.security import (
    ClaimBundle,
    ClaimCode,
    ClaimContent,
    ClaimKeys,
    Endpoint,
    HostPort,
    PendingClaim,
    Secret,
    certify_claim,
    create_issuer,
    make_request,
    parse_request_untrusted,
)

NOW = time.time()
MADE = provision("orders", target=HostPort("db", 1), endpoints=[Endpoint("a.example")], now=NOW)
AUTHORITY = MADE.authority_file.authority
CODE = ClaimCode.generate(Endpoint("a.example"), None)


def pending_claim() -> PendingClaim:
    keys = ClaimKeys.of(CODE)
    certificate = certify_claim(AUTHORITY, "billing", keys.private_key(), now=NOW, expires_at=NOW + 3600)
    plain = attrs.evolve(MADE.application, identity=None, authority=None)
    return PendingClaim.begin(keys, ClaimBundle(plain, AUTHORITY.certificate, certificate))


def issue(private_key: Secret, days: float = 90) -> Issued:
    request = parse_request_untrusted(make_request(private_key))
    return create_issuer(AUTHORITY, now=NOW).sign("orders", "billing", request, now=NOW, seconds=days * 86_400)


def refused(reason: Reason) -> PeerIdentityError:
    return PeerIdentityError("the connector did not issue an identity", reason=reason)


#: Every reason of a session that is not permanent: the connector is restarted, the relay is, a network fails.
OF_SESSIONS = [Reason.GOING_AWAY, Reason.SESSION_LOST, Reason.PEER_SILENT, Reason.SUPERSEDED, Reason.INTERNAL_ERROR]
PASSING: list[HybridRelayError] = [
    *map(refused, OF_SESSIONS),
    *map(refused, [Reason.KIND_NOT_OFFERED, Reason.ISSUE_REFUSED, Reason.LIMIT, Reason.AUDIT_UNAVAILABLE]),
    *map(refused, [Reason.PROTOCOL_ERROR, Reason.TLS_FAILED, Reason.CANCELLED]),
    *(RendezvousError("x", reason=reason) for reason in [Reason.NO_LISTENER, *OF_SESSIONS]),
    *(AuthorizationError("x", reason=reason) for reason in [Reason.CONNECTION_DISABLED, Reason.TOKEN_EXPIRED]),
    RelayUnreachable("x"),
    RelayIdentityError("x"),
    SessionError("x", reason=Reason.SESSION_LOST),
    StreamRefused("x", reason=Reason.LIMIT),
]
FINAL: list[HybridRelayError] = [
    *map(refused, [reason for reason in Reason if reason.duration is Duration.PERMANENT]),
    *(AuthorizationError("x", reason=reason) for reason in [Reason.CLAIM_TAKEN, Reason.WRONG_KEY]),
    ConfigurationError("x"),
    DeniedByPolicy("x"),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda one: f"{type(one).__name__} {one.reason.slug}")
async def test_what_passes_is_tried_again(
    error: HybridRelayError, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """There are pauses, which grow to half a minute."""
    tries, complete = answered(monkeypatch, [error] * 20)
    string = await complete(True)
    assert string is not None
    assert len(tries) == 21
    pauses = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert max(pauses) <= claim_taking._MAX_PAUSE_SECONDS <= sum(pauses)  # each is random
    tries, complete = answered(monkeypatch, [error])
    with pytest.raises(HybridRelayError, match="can be used until"):  # `claims take` is told at once
        await complete(False)
    assert len(tries) == 1


@pytest.mark.parametrize("error", FINAL, ids=lambda one: f"{type(one).__name__} {one.reason.slug}")
async def test_what_does_not_pass_ends_the_program(
    error: HybridRelayError, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    tries, complete = answered(monkeypatch, [error])
    with pytest.raises(HybridRelayError) as caught:
        await complete(True)
    assert caught.value.reason is error.reason
    assert len(tries) == 1


async def test_an_identity_that_cannot_be_used_is_requested_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Another connector may answer the next time."""
    tries, complete = answered(monkeypatch, [0.1, 0.1])
    assert await complete(True) is not None
    assert len(tries) == 3
    tries, complete = answered(monkeypatch, [0.1])
    with pytest.raises(HybridRelayError, match="expires too early; what the relay has delivered is kept"):
        await complete(False)


def answered(
    monkeypatch: pytest.MonkeyPatch, answers: list[HybridRelayError | float]
) -> tuple[list[float], Callable[[bool], Awaitable[object]]]:
    """Connectors that give these answers (errors, or identities for so many days), and then a good one.

    Returns:
        When they were asked, and what asks them.
    """
    tries = list[float]()
    left = [*answers]

    async def request(client: object, private_key: Secret) -> Issued:
        tries.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        answer = left.pop(0) if left else 90.0
        if isinstance(answer, HybridRelayError):
            raise answer
        return issue(private_key, answer)

    @asynccontextmanager
    async def open_client(config: ClientConfig) -> AsyncIterator[None]:
        yield

    monkeypatch.setattr(claim_taking, "request_identity", request)
    monkeypatch.setattr(claim_taking, "open_client", open_client)
    claim = pending_claim()

    async def complete(patient: bool) -> object:
        return await claim_taking._complete(claim, ClientConfig(claim.claiming), Path("x.claim"), patient=patient)

    return tries, complete


async def test_a_claim_of_a_hybrid_connection_that_is_disabled_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The relay keeps it. It is taken with the same number each time."""
    asked = list[str]()
    disabled = AuthorizationError("disabled", reason=Reason.CONNECTION_DISABLED)

    async def take(code: ClaimCode, keep: object, *, attempt: Callable[[], str], **_: object) -> None:
        asked.append(attempt())
        await trio.lowlevel.checkpoint()
        if len(asked) % 5:
            raise disabled

    monkeypatch.setattr(claim_taking, "take_claim", take)
    kept = list[ClaimContent]()
    attempt = claim_taking._Attempt(tmp_path / "out")
    await claim_taking._take(CODE, kept.append, attempt, "auto", None, patient=True)
    assert len(asked) == 5
    assert len(set(asked)) == 1
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(AuthorizationError):
        await claim_taking._take(CODE, kept.append, attempt, "auto", None, patient=False)


async def test_something_that_answers_in_place_of_the_relay_does_not_end_a_first_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """An attacker in the network, or a captive portal. Nothing is sent to it, so it is not an attempt."""
    tries, left = [], [RelayIdentityError("the certificate is not the relay's")] * 5

    async def take(code: ClaimCode, keep: object, *, attempt: Callable[[], str], **_: object) -> None:
        await trio.lowlevel.checkpoint()
        tries.append(list(tmp_path.iterdir()))
        if left:
            raise left.pop()

    monkeypatch.setattr(claim_taking, "take_claim", take)
    attempt = claim_taking._Attempt(tmp_path / "out")
    await claim_taking._take(CODE, list[ClaimContent]().append, attempt, "auto", None, patient=True)
    assert tries == [[]] * 6
    left.append(RelayIdentityError("the certificate is not the relay's"))
    with pytest.raises(RelayIdentityError):  # `claims take` is told at once
        await claim_taking._take(CODE, list[ClaimContent]().append, attempt, "auto", None, patient=False)


@pytest.mark.parametrize("reason", [Reason.CLAIM_LOST, Reason.CLAIM_TAKEN])
async def test_the_number_of_a_claim_that_was_lost_is_kept(tmp_path: Path, reason: Reason) -> None:
    """With another number, the relay would take the next start for a second taker."""

    async def take(code: ClaimCode, keep: object, *, attempt: Callable[[], str], **_: object) -> None:
        attempt()
        await trio.lowlevel.checkpoint()
        raise AuthorizationError("refused", reason=reason)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claim_taking, "take_claim", take)
        attempt = claim_taking._Attempt(tmp_path / "out")
        with pytest.raises(AuthorizationError):
            await claim_taking._take(CODE, list[ClaimContent]().append, attempt, "auto", None, patient=True)
    assert attempt.exists() == (reason is Reason.CLAIM_LOST)


@pytest.mark.parametrize("left", ["", "damaged", "0" * 31])
def test_the_file_of_an_attempt_that_cannot_be_used_is_replaced(tmp_path: Path, left: str) -> None:
    """The disk was full when it was written, for example."""
    file = tmp_path / ".out.attempt"
    file.write_text(left)
    file.chmod(0o600)
    number = claim_taking._Attempt(tmp_path / "out").get()
    assert number == claim_taking._Attempt(tmp_path / "out").get() == file.read_text().strip() != left


def test_nothing_is_done_without_the_option() -> None:
    claim_taking.take_at_first_start(argparse.Namespace(claim_file=None))


CLAIM = pending_claim()
#: A pending claim, the connection string that was made from it, and one that was not; an identity may be issued by
#: another command meanwhile.
PENDING = CLAIM.format()
STRING = CLAIM.complete(issue(CLAIM.private_key), now=NOW).format() + "\n"
OTHER = MADE.application.format() + "\n"
EMPTY, DAMAGED = "", "hrp1.pending"
#: How the parameters are called in the ids of tests.
CALLED = {PENDING: "claim", STRING: "string", OTHER: "other string", EMPTY: "empty", DAMAGED: "damaged"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, set()),
        ({"x": EMPTY}, {"x"}),  # nothing says that a program has begun it
        ({"x": STRING, ".x.01234567": STRING}, {"x", ".x.01234567"}),  # another program may be changing it
        ({".x.attempt": "a"}, {".x.attempt"}),
        ({".x.attempt": "a", ".x.01234567": STRING}, {".x.attempt"}),
        ({".x.attempt": "a", "x": EMPTY}, {".x.attempt"}),
        ({".x.attempt": "a", "x": STRING, ".x.01234567": STRING}, {"x"}),
        ({".x.attempt": "a", "x.claim": EMPTY}, {".x.attempt"}),
        ({".x.attempt": "a", "x.claim": PENDING, ".x.claim.01234567": PENDING}, {".x.attempt", "x.claim"}),
        ({"x.claim": PENDING, ".x.01234567": STRING}, {"x.claim"}),
        ({"x.claim": PENDING, "x": EMPTY}, {"x.claim"}),
        ({"x.claim": PENDING, "x": STRING}, {"x"}),
        ({".x.attempt": "a", "x.claim": PENDING, "x": STRING}, {"x"}),
        ({"x.claim": PENDING, "x": "something else"}, {"x.claim", "x"}),
        # Somebody else has written the file, so the claim is still needed.
        ({"x.claim": PENDING, "x": OTHER}, {"x.claim", "x"}),
        ({".x.attempt": "a", "x.claim": PENDING, "x": OTHER}, {".x.attempt", "x.claim", "x"}),
        ({"x.claim": DAMAGED, "x": STRING}, {"x.claim", "x"}),
        ({".x.attempt": "a", "x": OTHER}, {"x"}),
    ],
    ids=lambda files: (
        " ".join(
            f"{name} ({CALLED.get(files[name], 'text')})" if isinstance(files, dict) else name
            for name in sorted(files)
        )
        or "nothing"
    ),
)
def test_what_a_killed_process_has_left_is_removed(tmp_path: Path, before: dict[str, str], after: set[str]) -> None:
    for name, text in before.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    for _ in range(2):
        claim_taking._clean_up(tmp_path / "x")
        assert {one.name for one in tmp_path.iterdir()} == after
    assert all((tmp_path / name).read_text() == before[name] for name in after), "and what stays is unchanged"
