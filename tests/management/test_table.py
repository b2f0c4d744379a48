"""The table of operations: nothing is served outside of it, and its description is valid and true."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from hybridrelay.events import EventStream
from hybridrelay.management.callers import Caller
from hybridrelay.management.handlers import OPERATIONS
from hybridrelay.management.managed import Managed
from hybridrelay.management.openapi import openapi_document
from hybridrelay.management.operations import Operations
from hybridrelay.management.service import make_router
from hybridrelay.management.web.table import PAGES
from hybridrelay.relay import MemoryStore, RelayInfo
from hybridrelay.relay.history import Row
from hybridrelay.security import ManagementRole

from .conftest import CONNECTIONS, Api, path_of
from .live import FakeRelay

DOCUMENT = openapi_document(OPERATIONS, version="1.2.3")


async def test_nothing_is_served_outside_of_the_tables() -> None:
    store = MemoryStore()
    router = make_router(Managed(store, store, lambda: RelayInfo({}, ""), FakeRelay(), EventStream()))
    served = {(route.method, route.pattern) for route in router.routes}
    described = {(row.method, row.path) for row in OPERATIONS} | {("GET", "/openapi.json")}
    pages = {(page.method, page.path) for page in PAGES}
    assert not described & pages
    assert served == described | pages


def test_the_description_is_valid() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_the_description_has_every_operation() -> None:
    described = {
        operation["operationId"]: (method, path)
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    }
    assert described == {row.id: (row.method.lower(), row.path) for row in OPERATIONS}


def test_every_operation_that_changes_something_needs_more_than_to_look() -> None:
    for row in OPERATIONS:
        assert row.role > ManagementRole.VIEWER or not row.is_audited, row.id
        if row.method not in {"GET", "HEAD"}:
            assert row.is_audited, row.id


def test_links_lead_to_operations_and_give_what_their_paths_need() -> None:
    rows = {row.id: row for row in OPERATIONS}
    links = [(target, parameters) for row in OPERATIONS for target, parameters in row.leads_to.items()]
    assert links
    for target, parameters in links:
        assert set(parameters) == set(re.findall(r"{([a-z]+)}", rows[target].path)), target


def test_an_id_is_there_once() -> None:
    row = OPERATIONS.rows[0]
    with pytest.raises(ValueError, match="same id"):
        Operations([row, row])


@pytest.mark.parametrize("role", ManagementRole)
def test_a_role_may_do_what_those_before_it_may(role: ManagementRole) -> None:
    caller = Caller("test", "x", role)
    assert [other for other in ManagementRole if caller.may(other)] == [
        other for other in ManagementRole if other <= role
    ]


async def test_responses_are_as_described(api: Api) -> None:
    """Every response is checked against the schema that the description has for it."""

    async def check(id_: str, body: object = None, **headers: str) -> None:
        (row,) = (one for one in OPERATIONS if one.id == id_)
        answer, document = await api.call(row.method, path_of(row.path), body, **headers)
        responses: dict[str, Any] = DOCUMENT["paths"][row.path][row.method.lower()]["responses"]
        described = responses.get(str(answer.status), responses["default"])
        if "content" not in described:
            assert document is None
            return
        (content,) = described["content"].items()
        assert answer.headers["content-type"] == content[0]
        schema = {**content[1]["schema"], "components": DOCUMENT["components"]}
        Draft202012Validator(schema).validate(document)

    await check("getHybridConnection")
    await check("putHybridConnection", {"endpoints": ["relay.example.com"]})
    await check("putHybridConnection", {"endpoints": ["relay.example.com"]})
    await check("putHybridConnection", {"endpoints": []})
    for id_ in ("listHybridConnections", "getHybridConnection", "listAuthorizationRules", "getAuthorizationRule"):
        await check(id_)
    api.relay.rows = [(1200, Row(1, 2, 3, 4, 5, 6, 7, 8))]
    for id_ in ("listKeys", "getRelay", "getHistory", "getHybridConnectionHistory"):
        await check(id_)
    for what in ("Listener", "Sender", "Session"):
        for id_ in (f"list{what}s", f"listAll{what}s", f"drop{what}", f"drop{what}"):
            await check(id_)
    for id_ in ("drainRelay", "getReady", "undoDrainRelay", "getReady", "getLive"):
        await check(id_)
    await check("putAuthorizationRule", {"rights": ["Send"]})
    await check("regenerateKeys", {"slot": "secondary", "generation": 77})
    await check("revokeKeys", {"slot": "secondary", "generation": 77})
    generation = api.store.get("orders").generations
    for (rule, slot), number in generation.items():
        if rule == "application":
            await check("regenerateKeys", {"slot": slot.value, "generation": number})
    await check("deleteAuthorizationRule")
    await check("deleteHybridConnection", If_Match='"1"')
    await check("deleteHybridConnection")


async def test_the_description_is_served(api: Api) -> None:
    answer, document = await api.call("GET", "/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert document["paths"].keys() == DOCUMENT["paths"].keys()
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", document["info"]["version"])
    assert msgspec.json.decode(answer.body) == document
    answer, problem = await api.call("GET", f"{CONNECTIONS}/a/nothing")
    assert (answer.status, problem["status"]) == (404, 404)
