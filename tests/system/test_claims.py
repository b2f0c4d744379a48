"""Claims over real sockets: delivered once, over every transport, and nothing to a guess."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay.connectivity.claims import new_attempt, take_claim
from hybridrelay.connectivity.discovery import AUTO
from hybridrelay.connectivity.endpoint import RelayEndpoint
from hybridrelay.connectivity.instance import new_instance
from hybridrelay.connectivity.link import RelayLink
from hybridrelay.errors import AuthorizationError, ClaimError, RelayUnreachable
from hybridrelay.protocol import RemoteProtocolError, control
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay import SQLiteStore
from hybridrelay.relay.claims import Claim
from hybridrelay.relay.service.claims import ClaimService
from hybridrelay.relay.store.state_dir import REGISTRY_FILE
from hybridrelay.security import (
    ClaimCode,
    ClaimContent,
    ClaimKeys,
    ConnectionString,
    Endpoint,
    Role,
    Secret,
    seal_claim,
)
from hybridrelay.security.pins import short_pin

from .deployment import HOST, Deployment


def create(
    deployment: Deployment, *, seconds: float = 3600.0, seal: Callable[[ClaimKeys], bytes] | None = None
) -> tuple[ClaimCode, ConnectionString]:
    """Create a hybrid connection and a claim for its application's connection string."""
    string = deployment.string(deployment.publish(), Role.APPLICATION)
    code = ClaimCode.generate(Endpoint(HOST, deployment.ports), deployment.info.pin)
    keys, now = ClaimKeys.of(code), time.time()
    sealed = seal_claim(keys, string) if seal is None else seal(keys)
    with SQLiteStore.open(deployment.state_dir) as store:
        store.add_claim(Claim(keys.id, "db", keys.proof_digest, sealed, now, now + seconds))
    return code, string


def claim_of(deployment: Deployment) -> Claim:
    with SQLiteStore.open(deployment.state_dir) as store:
        (claim,) = store.claims("db")
    return claim


@pytest.mark.parametrize("mode", [AUTO, "tcp", "websocket"])
async def test_a_claim_is_delivered_once(deployment: Deployment, mode: str) -> None:
    code, string = create(deployment)
    kept: list[ClaimContent] = []

    await take_claim(code, kept.append, mode=mode)

    assert kept == [string]
    claim = claim_of(deployment)
    assert (claim.sealed, claim.taken_by, claim.taken_again) == (None, HOST, 0)
    with pytest.raises(AuthorizationError, match=r"the claim was taken before at \d{4}-") as caught:
        await take_claim(code, kept.append, mode=mode)
    assert caught.value.reason is Reason.CLAIM_TAKEN
    assert caught.value.remedy is not None
    assert "tell the administrator" in caught.value.remedy
    assert claim_of(deployment).taken_again == 1
    assert len(kept) == 1


async def test_of_many_takers_at_once_one_gets_it(deployment: Deployment) -> None:
    code, string = create(deployment)
    kept: list[ClaimContent] = []
    refused: list[Reason] = []

    async def take() -> None:
        try:
            await take_claim(code, kept.append, mode="tcp")
        except AuthorizationError as exc:
            refused.append(exc.reason)

    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(take)

    assert kept == [string]
    assert refused == [Reason.CLAIM_TAKEN] * 11
    assert claim_of(deployment).taken_again == 11


async def test_two_processes_with_the_same_store_deliver_it_once(deployment: Deployment) -> None:
    code, _ = create(deployment)
    keys = ClaimKeys.of(code)
    proof = bytes.fromhex(keys.proof.reveal())
    delivered: list[bytes] = []

    def take_many() -> None:
        with SQLiteStore.open(deployment.state_dir) as store:
            takes = [store.take_claim(keys.id, proof, "x") for _ in range(10)]
        delivered.extend(take.sealed for take in takes if take.sealed is not None)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(trio.to_thread.run_sync, take_many)
    assert len(delivered) == 1
    assert claim_of(deployment).taken_again == 39


async def test_what_was_delivered_is_nowhere_in_the_files_of_the_relay(deployment: Deployment) -> None:
    code, string = create(deployment)
    claim = claim_of(deployment)
    assert claim.sealed is not None
    kept: list[ClaimContent] = []
    await take_claim(code, kept.append, mode="tcp")
    await deployment.kill_relay()

    assert string.key.reveal().encode() not in claim.sealed
    for file in Path(deployment.state_dir).rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert claim.sealed[:64] not in content, file
            assert code.secret.reveal().encode() not in content, file


@pytest.mark.parametrize("guess", ["secret", "proof"])
async def test_a_guess_learns_nothing(deployment: Deployment, guess: str) -> None:
    code, string = create(deployment)
    before = claim_of(deployment)
    other = ClaimCode.generate(code.endpoint, deployment.info.pin)
    wrong = ClaimKeys.of(other)
    if guess == "proof":
        wrong = attrs.evolve(wrong, id=ClaimKeys.of(code).id)
    answer = await ask(deployment, wrong)
    assert answer == control.Failed(1, Reason.CLAIM_UNKNOWN)
    assert claim_of(deployment) == before
    kept: list[ClaimContent] = []
    await take_claim(code, kept.append, mode="tcp")
    assert kept == [string]


async def ask(deployment: Deployment, keys: ClaimKeys, times: int = 1) -> bytes | control.Failed:
    """Ask for a claim with arbitrary values."""
    endpoint = RelayEndpoint(HOST, deployment.ports, (deployment.info.pin,))
    link = RelayLink(endpoint, control.PeerRole.TAKER, instance=new_instance(), mode="tcp")
    async with trio.open_nursery() as nursery:
        channel = await link.start_control(nursery)
        for _ in range(times):
            answer = await channel.take(control.Take(channel.next_id(), keys.id, keys.proof.reveal()))
        channel.close()
        nursery.cancel_scope.cancel()
    return answer


async def test_one_guess_for_each_control_channel(deployment: Deployment) -> None:
    code, _ = create(deployment)
    wrong = ClaimKeys.of(ClaimCode.generate(code.endpoint, None))
    with pytest.raises((RelayUnreachable, ExceptionGroup)):
        await ask(deployment, wrong, times=2)


async def test_a_claim_that_has_expired_or_is_of_a_disabled_connection(deployment: Deployment) -> None:
    code, _ = create(deployment)
    with SQLiteStore.open(deployment.state_dir) as store:
        store.change("db", disabled=True)
    with pytest.raises(AuthorizationError) as caught:
        await take_claim(code, lambda _string: None, mode="tcp")
    assert caught.value.reason is Reason.CONNECTION_DISABLED
    assert claim_of(deployment).sealed is not None
    with sqlite3.connect(deployment.state_dir / REGISTRY_FILE) as database:
        database.execute("UPDATE claims SET expires_at = 5")
    database.close()
    with pytest.raises(AuthorizationError) as caught:
        await take_claim(code, lambda _string: None, mode="tcp")
    assert caught.value.reason is Reason.CLAIM_EXPIRED


async def test_another_relay_gets_no_proof(deployment: Deployment) -> None:
    code, _ = create(deployment)
    other = attrs.evolve(code, pin=short_pin(bytes(20)))
    with pytest.raises(RelayUnreachable, match="the claim code expects sha256-160:"):
        await take_claim(other, lambda _string: None, mode="tcp")
    assert claim_of(deployment).sealed is not None


async def test_a_relay_that_delivers_something_else(deployment: Deployment) -> None:
    code, _ = create(deployment, seal=lambda _keys: b"not sealed for it" * 900)
    with pytest.raises(ClaimError, match="not sealed for this claim"):
        await take_claim(code, lambda _string: None, mode="tcp")


async def test_a_long_content_arrives_whole(deployment: Deployment) -> None:
    def seal(keys: ClaimKeys) -> bytes:
        pins = tuple(deployment.info.pin for _ in range(8))
        endpoints = tuple(
            Endpoint(f"{'x' * 60}.{'y' * 60}.{'z' * 60}.r{n}", dict.fromkeys("abcdefgh", 1234)) for n in range(8)
        )
        long = ConnectionString(
            endpoints=endpoints, key_name="a" * 60, key=Secret("k" * 256), entity_path="db", relay_pins=pins
        )
        longs.append(long)
        return seal_claim(keys, long)

    longs: list[ConnectionString] = []
    code, _ = create(deployment, seal=seal)
    sealed = claim_of(deployment).sealed
    assert sealed is not None
    assert len(sealed) > control.CLAIM_PART_SIZE
    kept: list[ClaimContent] = []
    await take_claim(code, kept.append, mode="tcp")
    assert kept == longs


async def test_cancellation_does_not_lose_what_was_asked_for(deployment: Deployment) -> None:
    code, string = create(deployment)
    kept: list[ClaimContent] = []
    with trio.CancelScope() as scope:

        def keep(one: ClaimContent) -> None:
            kept.append(one)

        async def cancel_when_taken() -> None:
            while claim_of(deployment).sealed is not None:
                await trio.lowlevel.checkpoint()
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_when_taken)
            await take_claim(code, keep, mode="tcp")
    assert kept == [string]


@pytest.fixture
def lost_answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The relay's control channel is lost after the claim is stored as taken, and before the answer is sent. Returns
    the takers to which this has happened."""
    takers: list[str] = []
    really_take = ClaimService.take

    async def take(
        self: ClaimService, request: control.Take, peer: str
    ) -> list[control.Taken] | list[control.Failed]:
        answer = await really_take(self, request, peer)
        if isinstance(answer[0], control.Taken) and not takers:
            takers.append(peer)
            raise RemoteProtocolError("the channel is lost here")
        return answer

    monkeypatch.setattr(ClaimService, "take", take)
    return takers


async def test_a_taker_that_asks_again_raises_no_alarm_about_itself(
    deployment: Deployment, lost_answers: list[str]
) -> None:
    code, _ = create(deployment)
    kept: list[ClaimContent] = []
    attempt = new_attempt()
    with pytest.raises(RelayUnreachable):
        await take_claim(code, kept.append, attempt=lambda: attempt, mode="tcp")
    assert lost_answers == [HOST]
    with pytest.raises(AuthorizationError) as caught:
        await take_claim(code, kept.append, attempt=lambda: attempt, mode="tcp")
    assert caught.value.reason is Reason.CLAIM_LOST
    assert caught.value.remedy is not None
    assert "another claim" in caught.value.remedy
    assert claim_of(deployment).taken_again == 0
    with pytest.raises(AuthorizationError) as caught:
        await take_claim(code, kept.append, mode="tcp")
    assert caught.value.reason is Reason.CLAIM_TAKEN
    assert claim_of(deployment).taken_again == 1
    assert not kept


async def test_a_command_that_asks_again_raises_no_alarm_about_itself(
    deployment: Deployment, lost_answers: list[str], tmp_path: Path
) -> None:
    """It does not do so while it waits for the relay, nor when it is started again."""
    code, string = create(deployment)
    out = tmp_path / "billing.application"
    attempt = tmp_path / ".billing.application.attempt"
    assert await take_by_command(code, out, "forward", "--claim-file", "-", "--connection-string-file", out) == 1
    number = attempt.read_text()
    assert await take_by_command(code, out, "claims", "take", "--out", out) == 1
    assert (attempt.read_text(), out.exists(), lost_answers) == (number, False, [HOST])
    assert claim_of(deployment).taken_again == 0

    with SQLiteStore.open(deployment.state_dir) as store:
        store.delete("db")
    code, string = create(deployment)
    assert await take_by_command(code, out, "claims", "take", "--out", out) == 0
    assert out.read_text().strip() == string.format()
    assert not attempt.exists()


async def take_by_command(code: ClaimCode, out: Path, *arguments: str | Path) -> int:
    command = [sys.executable, "-m", "hybridrelay", *arguments, "--mode", "tcp"]
    done = await trio.run_process(
        command, stdin=f"{code.format().reveal()}\n".encode(), capture_stderr=True, capture_stdout=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    assert done.returncode == 0 or b"lost on the way" in done.stderr, done.stderr
    return done.returncode
