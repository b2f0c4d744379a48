"""What was used, in the management API: months, quotas, and the last use of keys."""

from __future__ import annotations

import attrs

from hybridrelay.relay import QuotaSnapshot
from hybridrelay.relay.quotas import Limits, Quota
from hybridrelay.relay.usage import TOTAL, PastUsage, Period, Usage
from hybridrelay.security import KeySlot

from .conftest import CONNECTIONS, Api

BODY = {"endpoints": ["relay.example.com"]}
OCTOBER = PastUsage(Period(2026, 10), Usage(1, 2, 3))


async def test_the_usage_of_a_hybrid_connection(api: Api, viewer: Api) -> None:
    await api.call("PUT", f"{CONNECTIONS}/orders", {**BODY, "edition": "free", "limits": {"sessions": 5}})
    api.relay.used, api.relay.past = {"orders": Usage(10, 20, 3)}, [OCTOBER]
    answer, found = await viewer.call("GET", f"{CONNECTIONS}/orders/usage")
    assert answer.status == 200
    assert found["usage"] == {
        "begin": 1793491200, "end": 1796083200, "bytesToClient": 10, "bytesToConnector": 20, "bytes": 30, "joins": 3,
    }  # fmt: skip
    assert found["limits"] == {
        "listeners": 25, "senders": None, "sessions": 5, "bytesPerMonth": 5 * 10**9, "bytesPerSecond": None,
        "endAtLimit": False,
    }  # fmt: skip
    assert (found["listeners"], found["senders"], found["sessions"]) == (1, 1, 1)
    assert [(one["end"], one["bytes"]) for one in found["earlier"]] == [(1793491200, 3)]
    assert (await api.call("GET", f"{CONNECTIONS}/others/usage"))[0].status == 404


async def test_the_usage_of_the_relay(api: Api, viewer: Api) -> None:
    for name in ("a", "b", "c"):
        await api.call("PUT", f"{CONNECTIONS}/{name}", BODY)
    api.relay.used, api.relay.past = {TOTAL: Usage(100, 200, 3), "b": Usage(10, 20, 3)}, [OCTOBER]
    _, found = await viewer.call("GET", "/v1/usage")
    assert (found["edition"], found["connections"], found["bytes"]) == (
        None, {"used": 3, "allowed": None}, {"used": 300, "allowed": None},
    )  # fmt: skip
    await api.call("PUT", "/v1/relay/edition", {"edition": "basic"})
    _, found = await viewer.call("GET", "/v1/usage?limit=2")
    assert (found["edition"], found["connections"], found["bytes"]) == (
        "basic", {"used": 3, "allowed": 10}, {"used": 300, "allowed": 50 * 10**9},
    )  # fmt: skip
    assert [(one["name"], one["usage"]["bytes"]) for one in found["value"]] == [("a", 0), ("b", 30)]
    assert found["earlier"][0]["joins"] == 3
    _, found = await viewer.call("GET", f"/v1/usage?limit=2&cursor={found['nextCursor']}")
    assert [one["name"] for one in found["value"]] == ["c"]
    assert found["nextCursor"] is None


async def test_when_keys_were_last_used(api: Api, viewer: Api) -> None:
    await api.call("PUT", f"{CONNECTIONS}/orders", BODY)
    key = api.store.get("orders").key_id("connector", KeySlot.SECONDARY)
    assert key is not None
    api.relay.uses[key] = 1234.5
    _, rule = await viewer.call("GET", f"{CONNECTIONS}/orders/authorizationRules/connector")
    assert [(one["slot"], one["lastUsed"]) for one in rule["keys"]] == [("primary", None), ("secondary", 1234.5)]
    _, connection = await viewer.call("GET", f"{CONNECTIONS}/orders")
    assert rule in connection["authorizationRules"]
    body = {"slot": "secondary", "generation": key.generation}
    await api.call("POST", f"{CONNECTIONS}/orders/authorizationRules/connector/regenerateKeys", body)
    _, rule = await viewer.call("GET", f"{CONNECTIONS}/orders/authorizationRules/connector")
    assert rule["keys"][1]["lastUsed"] is None, "it is another key"
    _, text = await viewer.call("GET", "/metrics")
    line = 'hybridrelay_key_last_used_timestamp_seconds{connection="orders",rule="connector",slot="secondary"} 1234.5'
    assert line in text


async def test_quotas_that_are_nearly_used_up_are_problems(api: Api, viewer: Api) -> None:
    api.store.create("orders", ["a"], [], quota=Quota("", Limits(sessions=5)))
    near, reached = QuotaSnapshot("orders", "sessions", 4, 5), QuotaSnapshot(None, "bytes", 10, 10)
    api.relay.numbers = attrs.evolve(api.relay.numbers, quotas=(near, reached))
    _, relay = await viewer.call("GET", "/v1/relay")
    found = [(one["code"], one["connection"], one["detail"]) for one in relay["problems"]]
    assert found == [
        (
            "quota-reached",
            None,
            "10 bytes of the 10 bytes of the relay for this month are used; further requests are refused",
        ),
        ("quota-near", "orders", "4 of 5 sessions of orders are used"),
    ]
    assert all(one["remedy"] for one in relay["problems"])
    _, text = await viewer.call("GET", "/metrics")
    assert 'hybridrelay_quota_used_ratio{connection="orders",quota="sessions"} 0.8' in text
    assert 'hybridrelay_quota_used_ratio{connection="",quota="bytes"} 1' in text
