"""Checkpoints of audit logs over the management API, and who may see and delete them."""

from __future__ import annotations

import pytest
import trio

from hybridrelay.management.callers import Caller, Scope
from hybridrelay.relay.checkpoints import KeptCheckpoint
from hybridrelay.security import ManagementRole

from .conftest import CONNECTIONS, Api, serve_api

PATH = "/v1/auditCheckpoints"
LOG, OTHER_LOG = "0f" * 8, "1e" * 8


def kept(number: int, connection: str, log: str = LOG) -> KeptCheckpoint:
    return KeptCheckpoint(
        connection, log, number, f"{number:064x}", "t", "ed25519:k", "sig", "a" * 32, "192.0.2.1", 5.0, number
    )


@pytest.fixture
def filled(api: Api) -> Api:
    api.relay.held_checkpoints += [
        kept(1, "orders"),
        kept(2, "other"),
        kept(3, "orders", OTHER_LOG),
        kept(4, "orders"),
    ]
    return api


async def numbers(api: Api, query: str = "") -> list[int]:
    answer, body = await api.call("GET", PATH + query)
    assert answer.status == 200
    return [one["last"] for one in body["value"]]


async def test_they_are_listed_by_page(filled: Api) -> None:
    answer, page = await filled.call("GET", f"{PATH}?limit=3")
    assert (answer.status, page["nextCursor"]) == (200, "3")
    assert page["value"][0] == {
        "connection": "orders",
        "log": LOG,
        "last": 1,
        "head": f"{1:064x}",
        "signedAt": "t",
        "key": "ed25519:k",
        "signature": "sig",
        "instance": "a" * 32,
        "address": "192.0.2.1",
        "receivedAt": 5.0,
    }
    answer, page = await filled.call("GET", f"{PATH}?limit=3&cursor=3")
    assert ([one["last"] for one in page["value"]], page["nextCursor"]) == ([4], None)
    assert await numbers(filled, f"?log={OTHER_LOG}") == [3]
    assert await numbers(filled, "?connection=other") == [2]
    assert (await filled.call("GET", f"{PATH}?log=nonsense"))[0].status == 400
    assert (await filled.call("GET", f"{PATH}?cursor=x"))[0].status == 400


@pytest.mark.parametrize(
    ("scope", "seen"),
    [(Scope(only="other"), [2]), (Scope(prefix="ord"), [1, 3, 4]), (Scope(prefix="x"), [])],
    ids=str,
)
async def test_a_caller_sees_those_of_its_scope(
    filled: Api, nursery: trio.Nursery, scope: Scope, seen: list[int]
) -> None:
    api = await serve_api(filled, Caller("sas", "all", ManagementRole.ADMIN, scope), nursery)
    assert await numbers(api) == seen
    assert await numbers(api, "?connection=orders") == [one for one in seen if one != 2]


async def test_an_administrator_deletes_those_of_a_log(filled: Api, nursery: trio.Nursery) -> None:
    path = f"{CONNECTIONS}/orders/auditCheckpoints/{LOG}"
    manage = await serve_api(filled, Caller("sas", "all", ManagementRole.ADMIN, Scope(only="orders")), nursery)
    answer, body = await manage.call("DELETE", path)
    assert (answer.status, "evidence" in body["detail"]) == (403, True)
    viewer = await serve_api(filled, Caller("token", "v", ManagementRole.VIEWER), nursery)
    assert (await viewer.call("DELETE", path))[0].status == 403
    assert (await filled.call("DELETE", f"{CONNECTIONS}/orders/auditCheckpoints/nonsense"))[0].status == 404
    for _ in range(2):
        assert (await filled.call("DELETE", path))[0].status == 204
    assert await numbers(filled) == [2, 3]
