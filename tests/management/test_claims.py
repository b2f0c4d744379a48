"""Claims over the management API, by whom they can be seen and made, and what the audit log has of them."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay.events import EventStream, ManagementCalled
from hybridrelay.events.claims import ClaimRefused, ClaimTaken, ClaimTakenAgain, ClaimUnknown
from hybridrelay.management.audit_entries import AuditFilter
from hybridrelay.management.audit_log import ManagementAuditLog
from hybridrelay.management.callers import Caller, Scope
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.claims import Claim
from hybridrelay.security import ManagementRole

from .conftest import CONNECTIONS, Api, serve_api

PROOF = bytes(range(32))
ID = "ab" * 16
BODY = {
    "id": ID,
    "proofDigest": hashlib.sha256(PROOF).hexdigest(),
    "sealed": base64.b64encode(b"sealed").decode(),
    "expiresInSeconds": 3600,
    "note": "Ann",
}
CLAIMS = f"{CONNECTIONS}/orders/claims"


@pytest.fixture
async def timed(api: Api, nursery: trio.Nursery) -> Api:
    """The API of a relay whose store has the same clock."""
    api.managed = attrs.evolve(api.managed, clock=lambda: 1234.5)
    return await serve_api(api, Caller("test", "admin", ManagementRole.ADMIN), nursery)


async def create_connection(api: Api) -> None:
    assert (await api.call("PUT", f"{CONNECTIONS}/orders", {"endpoints": ["relay.example.com"]}))[0].status == 201


async def test_claims_are_made_listed_and_revoked(timed: Api) -> None:
    api = timed
    assert (await api.call("GET", CLAIMS))[0].status == 404
    assert (await api.call("POST", CLAIMS, BODY))[0].status == 404
    await create_connection(api)
    answer, made = await api.call("POST", CLAIMS, BODY)
    assert (answer.status, made["id"], made["state"], made["note"]) == (201, ID, "open", "Ann")
    assert made["expiresAt"] - made["createdAt"] == 3600
    assert (await api.call("POST", CLAIMS, BODY))[0].status == 409
    answer, listed = await api.call("GET", CLAIMS)
    assert (answer.status, listed["value"]) == (200, [made])
    for secret in (BODY["sealed"], BODY["proofDigest"]):
        assert str(secret) not in str(listed)
    assert (await api.call("DELETE", f"{CLAIMS}/{'cd' * 16}"))[0].status == 404
    for _ in range(2):
        assert (await api.call("DELETE", f"{CLAIMS}/{ID}"))[0].status == 204
    (claim,) = api.store.claims("orders")
    assert claim.sealed is None
    audited = [event for event in api.events if isinstance(event, ManagementCalled) and event.claim]
    assert [(event.operation_id, event.claim, event.status, event.unchanged) for event in audited] == [
        ("createClaim", ID, 404, False),
        ("createClaim", ID, 201, False),
        ("createClaim", ID, 409, False),
        ("revokeClaim", "cd" * 16, 404, False),
        ("revokeClaim", ID, 204, False),
        ("revokeClaim", ID, 204, True),
    ]
    assert str(BODY["sealed"]) not in repr(api.events)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "AB" * 16},
        {"id": "ab"},
        {"proofDigest": "x" * 64},
        {"sealed": ""},
        {"sealed": "ab"},
        {"sealed": "ab=="[::-1]},
        {"sealed": "A" * 30000},
        {"expiresInSeconds": 59},
        {"expiresInSeconds": 7 * 86_400 + 1},
        {"note": "x" * 129},
        {"note": "a\nb"},
        {"code": "no"},
    ],
)
async def test_claims_that_cannot_be(timed: Api, wrong: dict[str, object]) -> None:
    api = timed
    await create_connection(api)
    assert (await api.call("POST", CLAIMS, {**BODY, **wrong}))[0].status == 400
    assert api.store.claims("orders") == ()


async def test_a_viewer_sees_claims_and_makes_none(timed: Api, nursery: trio.Nursery) -> None:
    api = timed
    await create_connection(api)
    viewer = await serve_api(api, Caller("token", "x", ManagementRole.VIEWER), nursery)
    assert (await viewer.call("GET", CLAIMS))[0].status == 200
    assert (await viewer.call("POST", CLAIMS, BODY))[0].status == 403
    other = await serve_api(api, Caller("sas", "x", ManagementRole.ADMIN, Scope(only="other")), nursery)
    assert (await other.call("POST", CLAIMS, BODY))[0].status in (403, 404)
    owner = await serve_api(api, Caller("sas", "x", ManagementRole.ADMIN, Scope(only="orders")), nursery)
    assert (await owner.call("POST", CLAIMS, BODY))[0].status == 201


async def test_the_audit_log_has_every_attempt_to_take_one(tmp_path: Path) -> None:
    log = ManagementAuditLog(tmp_path, clock=lambda: 1000.0, events=EventStream())
    log(ClaimTaken(connection="orders", claim=ID, peer="192.0.2.1"))
    log(ClaimTakenAgain(connection="orders", claim=ID, peer="192.0.2.2", taken_at=5.0, taken_by="192.0.2.1"))
    log(ClaimRefused(connection="orders", claim=ID, peer="192.0.2.3", reason=Reason.CLAIM_EXPIRED))
    log(ClaimRefused(connection="orders", claim=ID, peer="192.0.2.5", reason=Reason.CLAIM_TAKEN))
    log(ClaimUnknown(peer="192.0.2.4"))
    page = await log.read(AuditFilter(operation="takeClaim"), 10)
    assert [(one.status, one.caller, one.claim, one.peer) for one in reversed(page.entries)] == [
        (200, "claim", ID, "192.0.2.1"),
        (409, "claim", ID, "192.0.2.2"),
        (403, "claim", ID, "192.0.2.3"),
        (409, "claim", ID, "192.0.2.5"),
        (404, "", "", "192.0.2.4"),
    ]


async def test_open_claims_in_the_status_and_the_metrics(timed: Api, nursery: trio.Nursery) -> None:
    """A problem in the last quarter of their time, for those who may see the hybrid connection."""
    api = timed
    await create_connection(api)
    await api.call("POST", CLAIMS, BODY)
    digest = hashlib.sha256(PROOF).hexdigest()
    api.store.add_claim(Claim("cd" * 16, "orders", digest, b"sealed", 1234.5 - 2701, 1234.5 + 899))
    caller = Caller("token", "x", ManagementRole.VIEWER)
    _, relay = await (await serve_api(api, caller, nursery)).call("GET", "/v1/relay")
    (found,) = [one for one in relay["problems"] if one["code"] == "claim-expires"]
    assert found["connection"] == "orders"
    assert "the claim cdcdcdcd of orders was not taken, and expires at 1970-01-01 00:35 UTC" in found["detail"]
    assert "hybridrelay claims revoke orders cdcdcdcd" in found["remedy"]
    other = await serve_api(api, Caller("sas", "x", ManagementRole.ADMIN, Scope(only="other")), nursery)
    _, relay = await other.call("GET", "/v1/relay")
    assert "claim-expires" not in [one["code"] for one in relay["problems"]]
    answer = await api.client.request("GET", "/metrics")
    lines = answer.body.decode().splitlines()
    assert 'hybridrelay_open_claims{connection="orders"} 2' in lines
    assert 'hybridrelay_claim_expiry_timestamp_seconds{connection="orders"} 2133.5' in lines
    await api.call("DELETE", f"{CLAIMS}/{'cd' * 16}")
    _, relay = await api.call("GET", "/v1/relay")
    assert "claim-expires" not in [one["code"] for one in relay["problems"]]
