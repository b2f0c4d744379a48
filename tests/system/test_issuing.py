"""A connector issues identities over the end-to-end session: for a claim once, to renew, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay._threads import run_in_thread
from hybridrelay.client import Client, request_identity
from hybridrelay.connector import Connector, ConnectorConfig, Policy
from hybridrelay.connector.issuing import rates as rates_module
from hybridrelay.connector.issuing import service as service_module
from hybridrelay.connector.issuing.rates import MAX_REQUESTS
from hybridrelay.connector.issuing.service import MAX_OF_ONE
from hybridrelay.connector.sessions import MAX_SESSIONS_PER_CLAIM
from hybridrelay.errors import HybridRelayError, PeerIdentityError, StreamRefused
from hybridrelay.events import ClaimUsedAgain, Event, EventStream, IdentityIssued, IdentityNotIssued
from hybridrelay.mux import Kind
from hybridrelay.policy.toml_files import parse_policy_file
from hybridrelay.protocol.issuing import IssueRefused, IssueRequest, parse_issue_answer_untrusted
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import (
    ClaimBundle,
    ClaimCode,
    ClaimKeys,
    ConnectionString,
    Endpoint,
    Identity,
    Issuer,
    PendingClaim,
    Role,
    authority_for_connectors,
    certify_claim,
    create_issuer,
    make_request,
    new_private_key,
    parse_request_untrusted,
)

from ..receiving import receive_all
from .deployment import HOST, Deployment, Published, echo, serve_target

DAY = 86_400.0


@attrs.define
class Scene:
    """A hybrid connection with an issuer."""

    deployment: Deployment
    published: Published
    issuer: Issuer
    connector_string: ConnectionString
    used: Path
    events: list[Event] = attrs.field(factory=list)

    async def start(
        self,
        *,
        clock: Callable[[], float] = time.time,
        policy: Policy | None = None,
        used: Path | None = None,
        on_event: Callable[[Event], None] = lambda _event: None,
        keeps_no_claims: bool = False,
    ) -> trio.CancelScope:
        """Start a connector; it is registered on return."""
        config = ConnectorConfig(
            [self.connector_string],
            policy=policy or Policy(),
            used_claims=None if keeps_no_claims else used or self.used,
        )

        async def run(*, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
            with trio.CancelScope() as scope:
                events = EventStream(self.events.append, on_event)
                connector = Connector(config, events=events, clock=clock)
                async with trio.open_nursery() as nursery:
                    await nursery.start(connector.run)
                    task_status.started(scope)

        scope: trio.CancelScope = await self.deployment.nursery.start(run)
        return scope

    def claim(self, label: str = "billing", *, seconds: float = 3600.0) -> PendingClaim:
        """A claim that was taken."""
        keys = ClaimKeys.of(ClaimCode.generate(Endpoint(HOST), None))
        now = time.time()
        certificate = certify_claim(
            self.published.authority, label, keys.private_key(), now=now, expires_at=now + seconds
        )
        string = self.deployment.string(self.published, Role.APPLICATION)
        plain = attrs.evolve(string, identity=None, authority=None)
        return PendingClaim.begin(keys, ClaimBundle(plain, self.published.authority.certificate, certificate))

    def application(self, label: str = "billing", *, seconds: float = 90 * DAY) -> ConnectionString:
        """An application's connection string, whose identity the issuer has signed."""
        key = new_private_key()
        request = parse_request_untrusted(make_request(key))
        issued = self.issuer.sign(self.published.name, label, request, now=time.time(), seconds=seconds)
        identity = Identity(issued.certificate, key, issued.issuer)
        return self.deployment.string(self.published, Role.APPLICATION, identity=identity)

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
async def scene(deployment: Deployment, tmp_path: Path) -> Scene:
    target = await serve_target(deployment.nursery, echo)
    published = deployment.publish()
    issuer = create_issuer(published.authority, now=time.time())
    string = attrs.evolve(
        deployment.string(published, Role.CONNECTOR, target),
        issuer=issuer,
        authority=authority_for_connectors(published.authority),
    )
    return Scene(deployment, published, issuer, string, tmp_path / "used-claims.json")


async def ask(scene: Scene, claim: PendingClaim, *, patience: float = 10.0) -> ConnectionString:
    """Ask for the identity of a claim, once."""
    async with scene.deployment.client(claim.claiming, open_patience=patience, mode="tcp") as client:
        issued = await request_identity(client, claim.private_key)
    return claim.complete(issued, now=time.time())


async def use(scene: Scene, string: ConnectionString) -> bytes:
    async with scene.deployment.client(string, mode="tcp") as client, await client.open_stream() as stream:
        await stream.send_all(b"hello")
        await stream.send_eof()
        return await receive_all(stream)


def with_another_key(claim: PendingClaim) -> PendingClaim:
    """The same claim, as somebody else would use it who has the code, too."""
    return attrs.evolve(claim, private_key=new_private_key())


async def test_a_claim_becomes_an_identity_that_works(scene: Scene) -> None:
    await scene.start()
    claim = scene.claim()
    string = await ask(scene, claim)
    identity, _ = string.require_identity()
    assert (identity.label, identity.role) == ("billing", Role.APPLICATION)
    assert identity.details.not_after == pytest.approx(time.time() + 90 * DAY, abs=60)
    assert identity.issuer == scene.issuer.certificate
    assert await use(scene, string) == b"hello"
    (issued,) = scene.of(IdentityIssued)
    assert isinstance(issued, IdentityIssued)
    assert (issued.serial, issued.claim, issued.earlier) == (identity.serial, claim.details.serial.upper(), "")
    assert (issued.label, issued.again, issued.client_address) == ("billing", False, HOST)


async def test_a_claim_is_used_once(scene: Scene) -> None:
    await scene.start()
    claim = scene.claim()
    await ask(scene, claim)
    with pytest.raises(PeerIdentityError, match="used before") as caught:
        await ask(scene, with_another_key(claim))
    assert caught.value.reason is Reason.CLAIM_USED
    assert caught.value.remedy is not None
    assert "tell the administrator" in caught.value.remedy
    (alarm,) = scene.of(ClaimUsedAgain)
    assert isinstance(alarm, ClaimUsedAgain)
    assert (alarm.label, alarm.claim) == ("billing", claim.details.serial)
    # The rightful taker may repeat its request.
    await ask(scene, claim)
    assert [one.again for one in scene.of(IdentityIssued) if isinstance(one, IdentityIssued)] == [False, True]


async def test_a_claim_cannot_be_used_again_after_a_restart_of_the_connector(scene: Scene) -> None:
    scope = await scene.start()
    claim = scene.claim()
    await ask(scene, claim)
    scope.cancel()
    await scene.start()
    with pytest.raises(PeerIdentityError) as caught:
        await ask(scene, with_another_key(claim))
    assert caught.value.reason is Reason.CLAIM_USED


async def test_of_many_takers_at_once_one_gets_it(scene: Scene) -> None:
    await scene.start()
    await scene.start()  # another connector, which shares the file
    claims = [scene.claim()]
    claims += [with_another_key(claims[0]) for _ in range(3)]
    got: list[PendingClaim] = []
    refused: list[Reason] = []

    async def take(claim: PendingClaim) -> None:
        try:
            await ask(scene, claim)
        except HybridRelayError as exc:
            refused.append(exc.reason)
        else:
            got.append(claim)

    async with trio.open_nursery() as nursery:
        for claim in claims:
            nursery.start_soon(take, claim)
    assert len(got) == 1
    assert refused == [Reason.CLAIM_USED] * 3


async def test_a_connector_that_is_killed_between_signing_and_the_answer(scene: Scene) -> None:
    """The claim is noted as used, and the taker has nothing: the same key gets its identity the next time."""
    scopes: list[trio.CancelScope] = []

    def kill(event: Event) -> None:
        if isinstance(event, IdentityIssued):
            scopes[0].cancel()

    scopes.append(await scene.start(on_event=kill))
    claim = scene.claim()
    with pytest.raises(HybridRelayError):
        await ask(scene, claim, patience=0)
    assert len(scene.of(IdentityIssued)) == 1
    await scene.start()
    with pytest.raises(PeerIdentityError):
        await ask(scene, with_another_key(claim))
    assert await use(scene, await ask(scene, claim)) == b"hello"


async def test_a_claim_opens_nothing_else(scene: Scene) -> None:
    await scene.start()
    async with scene.deployment.client(scene.claim().claiming, mode="tcp") as client:
        with pytest.raises(StreamRefused, match="only for getting an identity") as caught:
            await client.open_stream()
    assert caught.value.reason is Reason.IDENTITY_WRONG_ROLE


async def test_a_connector_without_an_issuer_says_so(scene: Scene) -> None:
    """Like one of an earlier version, it does not offer the feature."""
    string = scene.deployment.string(scene.published, Role.CONNECTOR)
    await scene.deployment.connector(string)
    for asking in (scene.claim().claiming, scene.deployment.string(scene.published, Role.APPLICATION)):
        async with scene.deployment.client(asking, mode="tcp") as client:
            with pytest.raises(PeerIdentityError, match="it has no issuer") as caught:
                await request_identity(client, new_private_key())
        assert caught.value.reason is Reason.KIND_NOT_OFFERED


async def test_a_connector_that_cannot_note_used_claims_serves_none(scene: Scene) -> None:
    await scene.start(keeps_no_claims=True)
    with pytest.raises(PeerIdentityError, match="its log says why"):
        await ask(scene, scene.claim())
    refusals = [one for one in scene.of(IdentityNotIssued) if isinstance(one, IdentityNotIssued)]
    assert "--used-claims" in refusals[0].remedy


async def test_a_damaged_file_of_used_claims_is_not_taken_for_an_empty_one(scene: Scene) -> None:
    scene.used.write_text("{")
    await scene.start()
    with pytest.raises(PeerIdentityError, match="its log says why"):
        await ask(scene, scene.claim())
    assert scene.used.read_text() == "{"


async def test_an_expired_claim(scene: Scene) -> None:
    await scene.start()
    with pytest.raises(PeerIdentityError) as caught:
        await ask(scene, scene.claim(seconds=-60), patience=0)
    assert caught.value.reason is Reason.IDENTITY_EXPIRED


@pytest.mark.parametrize("skew", [-1800.0, 1800.0])
async def test_a_clock_that_is_not_quite_right(scene: Scene, skew: float) -> None:
    await scene.start(clock=lambda: time.time() + skew)
    assert await use(scene, await ask(scene, scene.claim(seconds=DAY))) == b"hello"


async def test_a_connector_whose_clock_is_ahead_of_the_end_of_the_claim(scene: Scene) -> None:
    await scene.start(clock=lambda: time.time() + 2 * DAY)
    with pytest.raises(PeerIdentityError) as caught:
        await ask(scene, scene.claim(seconds=DAY))
    assert caught.value.reason is Reason.IDENTITY_EXPIRED
    assert caught.value.remedy is not None
    assert "compare the clocks" in caught.value.remedy


async def test_a_label_on_the_deny_list_gets_no_identity(scene: Scene) -> None:
    await scene.start(policy=Policy(denied=frozenset({"billing"})))
    with pytest.raises(HybridRelayError) as caught:
        await ask(scene, scene.claim(), patience=0)
    assert caught.value.reason is Reason.IDENTITY_DENIED
    assert not scene.used.exists()


# --- renewal


@pytest.mark.parametrize("required", ["RequireAudit = ['file']", "AuditWitness = ['relay.example.com']"])
async def test_nothing_is_issued_without_the_audit_log_that_the_policy_requires(scene: Scene, required: str) -> None:
    await scene.start(policy=Policy(files=(parse_policy_file("10.toml", required),)))
    claim = scene.claim()
    for string, key in ((claim.claiming, claim.private_key), (scene.application(), new_private_key())):
        async with scene.deployment.client(string, mode="tcp") as client:
            answer = await raw(client, IssueRequest(make_request(key)).encode())
        assert isinstance(answer, IssueRefused)
        assert answer.reason is Reason.AUDIT_UNAVAILABLE


async def test_a_claim_has_few_sessions(scene: Scene) -> None:
    await scene.start()
    claiming = scene.claim().claiming
    async with AsyncExitStack() as others:
        for _ in range(MAX_SESSIONS_PER_CLAIM):
            client = await others.enter_async_context(scene.deployment.client(claiming, mode="tcp"))
            await client.connect()
        async with scene.deployment.client(claiming, mode="tcp", open_patience=0.0) as client:
            with pytest.raises(HybridRelayError) as caught:
                await client.connect()
        assert caught.value.reason is Reason.LIMIT


async def test_an_identity_of_the_issuer_is_renewed_with_its_label(scene: Scene) -> None:
    await scene.start()
    string = scene.application("billing", seconds=60)
    identity, _ = string.require_identity()
    key = new_private_key()
    async with scene.deployment.client(string, mode="tcp") as client:
        issued = await request_identity(client, key)
    renewed = Identity(issued.certificate, key, issued.issuer)
    assert (renewed.label, renewed.role) == ("billing", Role.APPLICATION)
    assert await use(scene, attrs.evolve(string, identity=renewed)) == b"hello"
    (event,) = scene.of(IdentityIssued)
    assert isinstance(event, IdentityIssued)
    assert (event.earlier, event.serial, event.claim) == (identity.serial, renewed.serial, "")
    assert not scene.used.exists()


async def test_an_identity_of_the_authority_is_not_renewed(scene: Scene) -> None:
    await scene.start()
    string = scene.deployment.string(scene.published, Role.APPLICATION)
    async with scene.deployment.client(string, mode="tcp") as client:
        with pytest.raises(PeerIdentityError, match="authority file") as caught:
            await request_identity(client, new_private_key())
    assert caught.value.reason is Reason.ISSUE_REFUSED


async def test_renewing_too_often(scene: Scene) -> None:
    """Whatever the serial is: the limit is one for the label."""
    await scene.start()
    string, key = scene.application(), new_private_key()
    async with scene.deployment.client(string, mode="tcp") as client:
        for _ in range(12):
            issued = await request_identity(client, key)
        with pytest.raises(PeerIdentityError) as caught:
            await request_identity(client, new_private_key())
    assert caught.value.reason is Reason.LIMIT
    renewed = attrs.evolve(string, identity=Identity(issued.certificate, key, issued.issuer))
    async with scene.deployment.client(renewed, mode="tcp") as client:
        with pytest.raises(PeerIdentityError) as caught:
            await request_identity(client, new_private_key())
    assert caught.value.reason is Reason.LIMIT


async def test_renewals_at_the_same_time_count_as_well(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four serials of a label, each with as many requests as one may have open."""
    await scene.start()
    strings = [scene.application() for _ in range(4)]
    arrived, goes_on = [], trio.Event()
    run = run_in_thread

    async def wait_and_run(work: Callable[[], object]) -> object:
        arrived.append(work)
        await goes_on.wait()
        return await run(work)

    monkeypatch.setattr(service_module, "run_in_thread", wait_and_run)
    answers: list[object] = []

    async def renew(client: Client) -> None:
        answers.append(await raw(client, IssueRequest(make_request(new_private_key())).encode()))

    async with AsyncExitStack() as clients:
        opened = [
            await clients.enter_async_context(scene.deployment.client(string, mode="tcp")) for string in strings
        ]
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for client in opened:
                    for _ in range(MAX_OF_ONE):
                        nursery.start_soon(renew, client)
                while len(arrived) + len(answers) < 4 * MAX_OF_ONE:
                    await trio.sleep(0.01)
                assert len(arrived) == 12
                goes_on.set()
    refused = [one for one in answers if isinstance(one, IssueRefused)]
    assert [one.reason for one in refused] == [Reason.LIMIT] * (4 * MAX_OF_ONE - 12)


async def test_a_renewal_that_fails_does_not_count(scene: Scene) -> None:
    await scene.start()
    bad = IssueRequest(bytes(2000)).encode()
    async with scene.deployment.client(scene.application(), mode="tcp") as client:
        for _ in range(13):
            answer = await raw(client, bad)
            assert isinstance(answer, IssueRefused)
            assert answer.reason is Reason.ISSUE_REFUSED
        await request_identity(client, new_private_key())


@pytest.mark.parametrize("is_renewable", [True, False])
async def test_requests_are_limited_in_rate(
    scene: Scene, is_renewable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever they are answered. What was made with the authority file is refused without a look at the request."""
    monkeypatch.setattr(rates_module, "REQUESTS_SECONDS", 1e6)
    await scene.start()
    string = scene.application() if is_renewable else scene.deployment.string(scene.published, Role.APPLICATION)
    bad = IssueRequest(bytes(2000)).encode()
    if not is_renewable:
        monkeypatch.setattr(service_module, "run_in_thread", None)
    async with scene.deployment.client(string, mode="tcp") as client:
        for _ in range(MAX_REQUESTS):
            answer = await raw(client, bad)
            assert isinstance(answer, IssueRefused)
            assert answer.reason is Reason.ISSUE_REFUSED
        for _ in range(3):
            with pytest.raises(StreamRefused) as caught:
                await raw(client, bad)
            assert caught.value.reason is Reason.LIMIT
        monkeypatch.setattr(rates_module, "REQUESTS_SECONDS", 0.0)
        assert isinstance(await raw(client, bad), IssueRefused)
    reasons = [event.reason for event in scene.of(IdentityNotIssued) if isinstance(event, IdentityNotIssued)]
    assert reasons == [*[Reason.ISSUE_REFUSED] * MAX_REQUESTS, Reason.LIMIT, Reason.ISSUE_REFUSED]


# --- hostile requests


async def raw(client: Client, data: bytes) -> IssueRefused | object:
    session = await client.connect()
    async with await session.open_stream(Kind.ISSUE) as stream:
        try:
            await stream.send_all(data)
            await stream.send_eof()
        except trio.BrokenResourceError:
            pass  # it has answered before everything was sent
        return parse_issue_answer_untrusted(await receive_all(stream))


async def test_hostile_requests_are_refused_and_change_nothing(scene: Scene) -> None:
    await scene.start()
    claim = scene.claim()
    good = make_request(claim.private_key)
    other = make_request(new_private_key())
    hostile = [
        b"",
        b"{}",
        b"\x00" * 5000,
        IssueRequest(b"").encode(),
        IssueRequest(good[:-1]).encode(),
        IssueRequest(good[:-64] + other[-64:]).encode(),  # not signed by its key
        IssueRequest(bytes(2000)).encode(),
    ]
    async with scene.deployment.client(claim.claiming, mode="tcp") as client:
        for data in hostile:
            answer = await raw(client, data)
            assert isinstance(answer, IssueRefused)
            assert answer.reason is Reason.ISSUE_REFUSED
        assert not scene.used.exists()
        issued = await request_identity(client, claim.private_key)
    claim.complete(issued, now=time.time())
    assert len(scene.of(IdentityNotIssued)) == len(hostile)


async def test_who_sends_no_request_keeps_nobody_from_getting_an_identity(scene: Scene) -> None:
    await scene.start()
    async with AsyncExitStack() as silent:
        for number in range(5):
            string = scene.application(f"silent{number}")
            client = await silent.enter_async_context(scene.deployment.client(string, mode="tcp"))
            session = await client.connect()
            for _ in range(MAX_OF_ONE):
                await silent.enter_async_context(await session.open_stream(Kind.ISSUE))
        async with scene.deployment.client(scene.application(), mode="tcp") as client:
            await request_identity(client, new_private_key())
        await ask(scene, scene.claim("other"))
        assert scene.of(IdentityNotIssued) == []


async def test_a_request_that_does_not_arrive(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "RECEIVE_SECONDS", 0.05)
    await scene.start()
    async with scene.deployment.client(scene.application("silent"), mode="tcp") as client:
        session = await client.connect()
        async with await session.open_stream(Kind.ISSUE) as stream:
            answer = parse_issue_answer_untrusted(await receive_all(stream))
    assert isinstance(answer, IssueRefused)
    assert answer.reason is Reason.PEER_SILENT
    (event,) = scene.of(IdentityNotIssued)
    assert isinstance(event, IdentityNotIssued)
    assert (event.label, event.reason) == ("silent", Reason.PEER_SILENT)


async def test_a_flood_of_requests_is_limited(scene: Scene) -> None:
    await scene.start()
    outcomes: list[bool] = []
    async with scene.deployment.client(scene.application(), mode="tcp") as client:
        session = await client.connect()

        async def flood() -> None:
            try:
                stream = await session.open_stream(Kind.ISSUE)
            except StreamRefused as exc:
                outcomes.append(exc.reason is Reason.LIMIT)
            else:
                streams.append(stream)

        streams: list[trio.abc.AsyncResource] = []
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(flood)
        assert outcomes == [True] * (20 - MAX_OF_ONE)
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(partial(stream.aclose))
