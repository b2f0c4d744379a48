"""What administrators do over the management API, and how it refuses what cannot be."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hybridrelay.events import ManagementCalled
from hybridrelay.management.handlers import OPERATIONS
from hybridrelay.security import KeySlot, ManagementRole, generate_key

from .conftest import CONNECTIONS, Api, path_of

ORDERS = f"{CONNECTIONS}/orders"
RULE = f"{ORDERS}/authorizationRules/reporting"
BODY = {"endpoints": ["relay.example.com"]}


async def test_a_hybrid_connection_is_created_read_changed_and_deleted(api: Api) -> None:
    answer, created = await api.call("PUT", ORDERS, {**BODY, "description": "Orders", "metadata": {"owner": "Ann"}})
    assert (answer.status, answer.headers["etag"]) == (201, '"1"')
    assert created["name"] == "orders"
    assert (created["description"], created["metadata"]) == ("Orders", {"owner": "Ann"})
    assert (created["listenerCount"], created["senderCount"], created["createdAt"]) == (1, 1, 1234.5)
    assert [(rule["name"], rule["rights"]) for rule in created["authorizationRules"]] == [
        ("application", ["Send"]),
        ("connector", ["Listen"]),
    ]
    answer, read = await api.call("GET", ORDERS)
    assert (answer.status, answer.headers["etag"], read) == (200, '"1"', created)
    answer, changed = await api.call("PUT", ORDERS, {"endpoints": ["a", "b"]}, If_Match='"1"')
    assert (answer.status, answer.headers["etag"]) == (200, '"2"')
    assert (changed["endpoints"], changed["description"], changed["metadata"]) == (["a", "b"], "", {})
    assert changed["authorizationRules"] == created["authorizationRules"]
    for _ in range(2):  # what is gone is gone
        answer, _ = await api.call("DELETE", ORDERS)
        assert (answer.status, answer.body) == (204, b"")
    answer, problem = await api.call("GET", ORDERS)
    assert (answer.status, problem["type"]) == (404, "urn:hybridrelay:problem:not-found")
    assert problem["remedy"]


async def test_a_hybrid_connection_is_disabled_and_enabled(api: Api) -> None:
    await api.call("PUT", ORDERS, BODY)
    answer, changed = await api.call("PUT", ORDERS, {**BODY, "disabled": True}, If_Match='"1"')
    assert (answer.status, changed["disabled"], api.store.get("orders").disabled) == (200, True, True)
    answer, _ = await api.call("PUT", ORDERS, {**BODY, "disabled": False}, If_Match='"1"')
    assert (answer.status, api.store.get("orders").disabled) == (412, True), "another administrator was first"
    answer, changed = await api.call("PUT", ORDERS, BODY)
    assert (answer.status, changed["disabled"]) == (200, False), "what is left out has its default"
    answer, made = await api.call("PUT", f"{CONNECTIONS}/other", {**BODY, "disabled": True})
    assert (answer.status, made["disabled"]) == (201, True)
    api.relay.held_listeners.clear()
    _, relay = await api.call("GET", "/v1/relay")
    assert [one["connection"] for one in relay["problems"]] == ["orders"], "nobody listens, as is intended"


async def test_names_may_contain_slashes(api: Api) -> None:
    answer, _ = await api.call("PUT", f"{CONNECTIONS}/team%2Forders", BODY)
    assert answer.status == 201
    assert [one.name for one in api.store.list()] == ["team/orders"]
    answer, found = await api.call("GET", f"{CONNECTIONS}/team%2Forders/authorizationRules/connector")
    assert (answer.status, found["name"]) == (200, "connector")
    for path in ("team/orders", "team%2F", "team%2F%2Forders", "%2Forders", "a%00b", "%ff", "a" * 261, ""):
        answer, problem = await api.call("PUT", f"{CONNECTIONS}/{path}", BODY)
        assert answer.status in (400, 404), path
        assert problem["status"] == answer.status


async def test_with_the_keys_of_another_relay(api: Api) -> None:
    key = generate_key().reveal()
    rules = [{"name": "all", "rights": ["Manage"], "primaryKey": key}]
    answer, _ = await api.call("PUT", ORDERS, {**BODY, "authorizationRules": rules})
    assert answer.status == 201
    rule = api.store.rule("orders", "all")
    assert (rule.primary is not None and rule.primary.reveal(), rule.secondary) == (key, None)
    answer, problem = await api.call("PUT", ORDERS, {**BODY, "authorizationRules": rules})
    assert (answer.status, problem["errors"][0]["pointer"]) == (400, "/authorizationRules")


async def test_only_what_the_caller_has_read_is_changed(api: Api) -> None:
    await api.call("PUT", ORDERS, BODY)
    _, _ = await api.call("PUT", ORDERS, {**BODY, "description": "newer"})
    before = api.store.list()
    for method, path, body in (("PUT", ORDERS, BODY), ("DELETE", ORDERS, None), ("PUT", RULE, {"rights": ["Send"]})):
        answer, problem = await api.call(method, path, body, If_Match='"1"')
        assert (answer.status, problem["type"]) == (412, "urn:hybridrelay:problem:precondition-failed")
    answer, _ = await api.call("PUT", ORDERS, BODY, If_None_Match="*")
    assert answer.status == 412
    for version in ('"1"', "*"):
        for path in (f"{CONNECTIONS}/other", RULE):
            body = BODY if path != RULE else {"rights": ["Send"]}
            for answer, _ in (
                await api.call("PUT", path, body, If_Match=version),
                await api.call("DELETE", path, If_Match=version),
            ):
                assert answer.status == 412
    assert api.store.list() == before
    assert (await api.call("PUT", ORDERS, BODY, If_Match="*"))[0].status == 200
    answer, _ = await api.call("PUT", f"{CONNECTIONS}/other", BODY, If_None_Match="*")
    assert answer.status == 201


@pytest.mark.parametrize("value", ['W/"1"', "1", '""', '"x"', '"1", "2"', "", '"-1"', '"' + "9" * 30 + '"'])
async def test_a_precondition_that_is_none(api: Api, value: str) -> None:
    await api.call("PUT", ORDERS, BODY)
    answer, problem = await api.call("DELETE", ORDERS, If_Match=value)
    assert (answer.status, problem["errors"][0]["pointer"]) == (400, "If-Match")
    assert api.store.list()


async def test_rules_are_added_changed_and_deleted(api: Api) -> None:
    await api.call("PUT", ORDERS, BODY)
    answer, added = await api.call("PUT", RULE, {"rights": ["Send"]})
    assert (answer.status, added["rights"]) == (201, ["Send"])
    answer, changed = await api.call("PUT", RULE, {"rights": ["Listen", "Manage"]})
    assert (answer.status, changed["rights"], changed["keys"]) == (200, ["Listen", "Manage"], added["keys"])
    assert (await api.call("GET", RULE))[1] == changed
    assert [rule["name"] for rule in (await api.call("GET", f"{ORDERS}/authorizationRules"))[1]["value"]] == [
        "application",
        "connector",
        "reporting",
    ]
    for _ in range(2):
        assert (await api.call("DELETE", RULE))[0].status == 204
    assert (await api.call("GET", RULE))[0].status == 404
    assert (await api.call("PUT", f"{CONNECTIONS}/other/authorizationRules/x", {"rights": ["Send"]}))[0].status == 404


async def test_keys_are_shown_replaced_and_revoked_by_their_generation(api: Api) -> None:
    await api.call("PUT", ORDERS, BODY)
    path = f"{ORDERS}/authorizationRules/application"
    answer, keys = await api.call("POST", f"{path}/listKeys")
    assert answer.headers["cache-control"] == "no-store"
    stored = api.store.rule("orders", "application")
    assert stored.primary is not None
    assert (keys["keyName"], keys["primaryKey"]) == ("application", stored.primary.reveal())
    change = {"slot": "primary", "generation": keys["primaryGeneration"]}
    answer, renewed = await api.call("POST", f"{path}/regenerateKeys", change)
    assert answer.status == 200
    assert renewed["primaryKey"] != keys["primaryKey"]
    assert renewed["secondaryKey"] == keys["secondaryKey"]
    # The same request once more, because its response was lost: nothing happens.
    for operation in ("regenerateKeys", "revokeKeys"):
        answer, problem = await api.call("POST", f"{path}/{operation}", change)
        assert (answer.status, problem["type"]) == (409, "urn:hybridrelay:problem:changed")
    change["generation"] = renewed["primaryGeneration"]
    assert (await api.call("POST", f"{path}/revokeKeys", change))[0].status == 204
    assert api.store.rule("orders", "application").key(KeySlot.PRIMARY) is None
    key = generate_key().reveal()
    answer, chosen = await api.call(
        "POST", f"{path}/regenerateKeys", {"slot": "primary", "generation": 0, "key": key}
    )
    assert (answer.status, chosen["primaryKey"]) == (200, key)


async def test_lists_have_pages(api: Api) -> None:
    names = sorted(f"db{number}" for number in range(7))
    for name in (*names, "web"):
        await api.call("PUT", f"{CONNECTIONS}/{name}", BODY)
    found: list[str] = []
    query = "?limit=3&prefix=db"
    for pages in range(1, 10):  # noqa: B007
        _, page = await api.call("GET", f"{CONNECTIONS}{query}")
        found += [one["name"] for one in page["value"]]
        if page["nextCursor"] is None:
            break
        query = f"?limit=3&prefix=db&cursor={page['nextCursor']}"
    assert (found, pages) == (names, 3)
    everything = (await api.call("GET", CONNECTIONS))[1]
    assert ([one["name"] for one in everything["value"]], everything["nextCursor"]) == ([*names, "web"], None)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=",
        "limit=1&limit=2",
        "cursor=",
        "cursor=%21",
        "cursor=AA",
        "what=1",
        "&",
    ],
)
async def test_a_query_that_cannot_be(api: Api, query: str) -> None:
    answer, problem = await api.call("GET", f"{CONNECTIONS}?{query}")
    assert (answer.status, problem["type"]) == (400, "urn:hybridrelay:problem:invalid")
    assert problem["errors"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"", ""),
        (b"[", ""),
        (b"\xff", ""),
        (b"[" * 50_000, ""),
        (b"null", ""),
        ({}, ""),
        ({**BODY, "unknown": 1}, ""),
        ({"endpoints": []}, "/endpoints"),
        ({"endpoints": "relay.example.com"}, "/endpoints"),
        ({"endpoints": ["a", 1]}, "/endpoints/1"),
        ({**BODY, "description": "x" * 1025}, "/description"),
        ({**BODY, "metadata": {"a": 1}}, "/metadata/..."),
        ({**BODY, "authorizationRules": [{"name": "a/b", "rights": ["Send"]}]}, "/authorizationRules/0/name"),
        ({**BODY, "authorizationRules": [{"name": "a", "rights": ["Fly"]}]}, "/authorizationRules/0/rights/0"),
    ],
)
async def test_a_body_that_cannot_be(api: Api, body: object, pointer: str) -> None:
    answer, problem = await api.call("PUT", ORDERS, body)
    assert (answer.status, problem["type"]) == (400, "urn:hybridrelay:problem:invalid")
    assert problem["errors"][0]["pointer"] == pointer
    assert problem["errors"][0]["detail"]
    assert api.store.list() == ()


@pytest.mark.parametrize(
    "body",
    [
        {**BODY, "description": "\x1b[2J"},
        {**BODY, "authorizationRules": [{"name": "a", "rights": ["Send"]}] * 2},
    ],
)
async def test_what_only_the_store_can_refuse(api: Api, body: object) -> None:
    answer, problem = await api.call("PUT", ORDERS, body)
    assert (answer.status, problem["type"]) == (400, "urn:hybridrelay:problem:invalid")
    assert api.store.list() == ()


@pytest.mark.parametrize(
    ("endpoints", "pointer", "says"),
    [
        (["a.example.com", "x:80"], "/endpoints/1", "without a port"),
        (["[::1]:80"], "/endpoints/0", "without a port"),
        (["hr://x:80"], "/endpoints/0", "without a scheme"),
        (["1.2.3.4:90"], "/endpoints/0", "without a port"),
        (["not a host"], "/endpoints/0", "host name"),
        (["a", "A"], "/endpoints", "a relay appears twice"),
    ],
)
async def test_endpoints_that_cannot_be(api: Api, endpoints: list[str], pointer: str, says: str) -> None:
    answer, problem = await api.call("PUT", ORDERS, {"endpoints": endpoints})
    assert (answer.status, problem["type"]) == (400, "urn:hybridrelay:problem:invalid")
    (error,) = problem["errors"]
    assert error["pointer"] == pointer
    assert says in error["detail"]
    assert problem["remedy"]
    assert api.store.list() == ()


async def test_an_address_in_brackets_is_an_endpoint(api: Api) -> None:
    answer, created = await api.call("PUT", ORDERS, {"endpoints": ["[::1]"]})
    assert (answer.status, created["endpoints"]) == (201, ["::1"])


async def test_an_unknown_word_is_answered_with_those_that_are_possible(api: Api) -> None:
    assert (await api.call("PUT", ORDERS, BODY))[0].status == 201
    cases: tuple[tuple[str, str, object, str, str], ...] = (
        ("PUT", RULE, {"rights": ["Send", "send"]}, "/rights/1", "Listen, Manage, Send"),
        ("POST", f"{RULE}/revokeKeys", {"slot": "first", "generation": 1}, "/slot", "primary, secondary"),
        ("POST", "/v1/tokens", {"name": "a", "role": "root"}, "/role", "admin, operator, viewer"),
    )
    for method, path, body, pointer, words in cases:
        answer, problem = await api.call(method, path, body)
        assert (answer.status, problem["errors"][0]["pointer"]) == (400, pointer)
        assert problem["errors"][0]["detail"].endswith(f"; possible values: {words}")
        assert "/openapi.json" in problem["remedy"]


async def test_every_refusal_of_the_request_itself_says_what_to_do(api: Api) -> None:
    for method, path, body, headers, status in (
        ("PUT", ORDERS, BODY, {"Content_Type": "text/plain"}, 415),
        ("DELETE", ORDERS, b"{}", {}, 400),
        ("GET", "/v1/hybridconnections", None, {}, 404),
        ("POST", ORDERS, BODY, {}, 405),
        ("PUT", ORDERS, {}, {}, 400),
    ):
        answer, problem = await api.call(method, path, body, **headers)
        assert (answer.status, problem["status"]) == (status, status)
        assert problem["remedy"], path


async def test_a_body_of_another_kind(api: Api) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/json-patch+json"):
        answer, problem = await api.call("PUT", ORDERS, BODY, Content_Type=content_type)
        assert (answer.status, problem["type"]) == (415, "urn:hybridrelay:problem:unsupported-media-type")
    assert (await api.call("PUT", ORDERS, BODY, Content_Type="Application/JSON; charset=utf-8"))[0].status == 201
    assert (await api.call("DELETE", ORDERS, b"{}"))[0].status == 400
    assert api.store.list()


async def test_the_relay_tells_its_pin_and_counts(api: Api) -> None:
    await api.call("PUT", ORDERS, BODY)
    _, relay = await api.call("GET", "/v1/relay")
    assert (relay["pin"], relay["listenerCount"], relay["connectionCount"]) == ("sha256:pin", 1, 1)


async def test_a_viewer_changes_nothing_and_sees_no_key(api: Api, viewer: Api) -> None:
    """Every operation of the table, with a request that an administrator could make."""
    await api.call("PUT", ORDERS, BODY)
    before, keys = api.store.list(), _keys(api)
    bodies = {
        "putHybridConnection": BODY,
        "putAuthorizationRule": {"rights": ["Manage"]},
        "regenerateKeys": {"slot": "primary", "generation": before[0].generations["application", KeySlot.PRIMARY]},
        "revokeKeys": {"slot": "primary", "generation": before[0].generations["application", KeySlot.PRIMARY]},
        "createToken": {"name": "other", "role": "admin"},
    }
    api.events.clear()
    refused = []
    for row in OPERATIONS:
        answer, document = await viewer.call(row.method, path_of(row.path), bodies.get(row.id))
        if row.role > ManagementRole.VIEWER:
            assert (answer.status, document["type"]) == (403, "urn:hybridrelay:problem:forbidden"), row.id
            refused += [row.id] if row.is_audited else []
        else:
            assert answer.status == (404 if row.id == "getRoll" else 200), row.id  # no key is being rolled
        assert not any(key.encode() in answer.body for key in keys)
    assert api.store.list() == before
    audited = [event for event in api.events if isinstance(event, ManagementCalled)]
    assert [(event.operation_id, event.status, event.caller) for event in audited] == [
        (one, 403, "test viewer") for one in refused
    ]


def _keys(api: Api) -> Sequence[str]:
    rules = api.store.get("orders").rules
    return [key.reveal() for rule in rules for slot in KeySlot if (key := rule.key(slot)) is not None]


async def test_the_audit_log_has_every_change_and_no_key(api: Api) -> None:
    await api.call("PUT", ORDERS, BODY)
    await api.call("PUT", ORDERS, b"[")
    await api.call("GET", ORDERS)
    await api.call("POST", f"{ORDERS}/authorizationRules/application/listKeys")
    await api.call("DELETE", f"{CONNECTIONS}/%00")
    keys = _keys(api)
    events = [event for event in api.events if isinstance(event, ManagementCalled)]
    assert [(event.operation_id, event.connection, event.rule, event.status) for event in events] == [
        ("putHybridConnection", "orders", "", 201),
        ("putHybridConnection", "orders", "", 400),
        ("listKeys", "orders", "application", 200),
        ("deleteHybridConnection", "", "", 404),
    ]
    assert {event.role for event in events} == {"admin"}
    assert not any(key in repr(events) for key in keys)


async def test_what_the_store_cannot_do_is_a_problem_of_its_own(api: Api) -> None:
    api.store.close()
    answer, problem = await api.call("GET", CONNECTIONS)
    assert (answer.status, problem["type"]) == (503, "urn:hybridrelay:problem:unavailable")
