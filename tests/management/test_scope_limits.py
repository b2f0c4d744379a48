"""Callers with a scope change the registry only so often, and create only so many hybrid connections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from hybridrelay.http import RequestError
from hybridrelay.management import scope_limits
from hybridrelay.management.callers import Caller, Scope
from hybridrelay.management.credentials import OwnCredentials
from hybridrelay.management.scope_limits import (
    CHANGES_BURST,
    CHANGES_PER_SECOND,
    KEYS_BURST,
    KEYS_PER_SECOND,
    MAX_CONNECTIONS,
    ScopedChanges,
)
from hybridrelay.security import ManagementRole, Right, Rule

from ..waiting import async_wait_until
from .conftest import CONNECTIONS, Api, serve_api
from .managed_relay import Relay

ADMIN = ManagementRole.ADMIN
TEAM = Caller("token", "team", ADMIN, Scope("team/"))
OTHER = Caller("token", "other", ADMIN, Scope("other/"))
BODY = {"endpoints": ["relay.example.com"]}


@pytest.fixture
async def as_caller(api: Api, nursery: trio.Nursery) -> Callable[[Caller], Awaitable[Api]]:
    """Calls the same relay as somebody else."""

    async def serve(caller: Caller) -> Api:
        return await serve_api(api, caller, nursery)

    return serve


async def create(api: Api, name: str) -> tuple[int, str]:
    """Create a hybrid connection. Returns the status, and the last part of the problem's type."""
    answer, value = await api.call("PUT", f"{CONNECTIONS}/{name.replace('/', '%2F')}", BODY)
    return answer.status, value.get("type", "").rpartition(":")[2]


@pytest.mark.parametrize("caller", [TEAM, Caller("sas", "team/db", ADMIN, Scope(only="team/db"))])
async def test_a_caller_with_a_scope_may_not_change_something_too_often(
    api: Api, as_caller: Callable[[Caller], Awaitable[Api]], mock_clock: trio.testing.MockClock, caller: Caller
) -> None:
    assert await create(api, "team/db") == (201, "")
    scoped, path = await as_caller(caller), f"{CONNECTIONS}/team%2Fdb"
    for number in range(CHANGES_BURST):
        answer, _ = await scoped.call("PATCH", path, {"description": f"{number}"})
        assert answer.status == 200
    before = api.store.get("team/db")
    answer, value = await scoped.call("PATCH", path, {"description": "too much"})
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    assert value["type"] == "urn:hybridrelay:problem:rate"
    assert "nothing was changed" in value["detail"]
    assert "Retry-After" in value["remedy"]
    assert api.store.get("team/db") == before
    # Reading, and everybody else, is not affected.
    assert (await scoped.call("GET", path))[0].status == 200
    for one in (api, await as_caller(OTHER)):
        name = "team/db" if one is api else "other/db"
        assert (await create(one, name))[0] in (200, 201)
    mock_clock.jump(1 / CHANGES_PER_SECOND)
    assert (await scoped.call("PATCH", path, {"description": "later"}))[0].status == 200
    assert (await scoped.call("PATCH", path, {"description": "again"}))[0].status == 429


async def test_refused_changes_do_not_count(api: Api, as_caller: Callable[[Caller], Awaitable[Api]]) -> None:
    assert await create(api, "other/db") == (201, "")
    scoped = await as_caller(TEAM)
    for _ in range(CHANGES_BURST + 1):
        assert (await create(scoped, "other/db"))[0] == 403
    assert (await create(scoped, "team/db"))[0] == 201


async def test_an_administrator_changes_as_much_as_is_necessary(api: Api) -> None:
    for _ in range(CHANGES_BURST + 10):
        assert (await create(api, "db"))[0] in (200, 201)


async def test_a_caller_with_a_scope_creates_a_limited_number(
    api: Api, as_caller: Callable[[Caller], Awaitable[Api]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_CONNECTIONS == 1000
    monkeypatch.setattr(scope_limits, "MAX_CONNECTIONS", 3)
    scoped = await as_caller(TEAM)
    for number in range(3):
        assert await create(scoped, f"team/{number}") == (201, "")
    assert await create(scoped, "team/3") == (409, "quota")
    answer, value = await scoped.call("PUT", f"{CONNECTIONS}/team%2F3", BODY)
    assert answer.status == 409
    assert "the scope team/ has 3 hybrid connections" in value["detail"]
    assert "delete those that are not needed" in value["remedy"]
    assert not api.store.exists("team/3")
    # What exists can be changed, and others are not affected.
    assert await create(scoped, "team/2") == (200, "")
    assert await create(await as_caller(OTHER), "other/0") == (201, "")
    assert await create(api, "team/3") == (201, ""), "an administrator decides otherwise"
    for number in (2, 3):
        assert (await scoped.call("DELETE", f"{CONNECTIONS}/team%2F{number}"))[0].status == 204
    assert await create(scoped, "team/4") == (201, "")


@pytest.mark.parametrize("path", [CONNECTIONS, "/v1/history", "/v1/connectionStates"])
async def test_a_manage_key_does_not_make_the_relay_read_the_hybrid_connections_of_others(
    api: Api, as_caller: Callable[[Caller], Awaitable[Api]], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Not even those whose names begin with the name of its own."""
    for name in ("db", "db-2"):
        assert await create(api, name) == (201, "")
    scoped = await as_caller(Caller("sas", "db", ADMIN, Scope(only="db")))
    for several in ("list", "disabled_by_name", "created_at_by_name", "snapshot"):
        monkeypatch.setattr(api.store, several, lambda *args, **kwargs: pytest.fail("it reads several"))
    answer, value = await scoped.call("GET", path)
    assert answer.status == 200
    assert "db-2" not in str(value)
    api.store.delete("db")
    assert (await scoped.call("GET", path))[0].status == 200


def with_key(connection: str, tenant: str) -> Caller:
    return Caller("sas", f"{connection} manage primary", ADMIN, Scope(only=connection), tenant)


async def test_all_keys_of_a_tenant_have_one_limit_besides_their_own(mock_clock: trio.testing.MockClock) -> None:
    """A caller that may create hybrid connections makes keys for each of them."""
    changes = ScopedChanges()
    for number in range(KEYS_BURST):
        changes.admit(with_key(f"team/{number % 10}", "team/"))
    for number in (0, 11):
        with pytest.raises(RequestError) as caught:
            changes.admit(with_key(f"team/{number}", "team/"))
        assert "all keys for team/ together may make 6 changes a second" in caught.value.failure.detail
    # A token of the tenant, other tenants and administrators have limits of their own.
    for other in (TEAM, OTHER, with_key("other/1", "other/"), with_key("db", "db"), Caller("local", "uid 0", ADMIN)):
        changes.admit(other)
    mock_clock.jump(1 / KEYS_PER_SECOND)
    changes.admit(with_key("team/11", "team/"))
    with pytest.raises(RequestError):
        changes.admit(with_key("team/11", "team/"))


async def test_one_key_does_not_use_up_the_limit_of_its_tenant() -> None:
    changes = ScopedChanges()
    for _ in range(CHANGES_BURST):
        changes.admit(with_key("team/1", "team/"))
    for _ in range(KEYS_BURST):
        with pytest.raises(RequestError) as caught:
            changes.admit(with_key("team/1", "team/"))
        assert "a caller with a scope may" in caught.value.failure.detail
    for _ in range(CHANGES_BURST):
        changes.admit(with_key("team/2", "team/"))


@pytest.mark.parametrize(
    ("connection", "scopes", "tenant"),
    [
        ("team/db", [], "team/"),
        ("team/db/2", [], "team/"),
        ("db", [], "db"),
        ("team/db", ["team/"], "team/"),
        ("prod/team/db", ["prod/team/", "prod/", ""], "prod/team/"),
        ("prod/other/db", ["prod/team/", "prod/"], "prod/"),
        ("team-1", ["team-"], "team-"),
        ("team_1", ["team-", "te_"], "team_1"),
        ("a/b", ["b", "a/b/"], "a/"),
    ],
)
async def test_the_tenant_of_a_key(nursery: trio.Nursery, connection: str, scopes: list[str], tenant: str) -> None:
    """It is what only an administrator of the whole relay decides: a scope for which there is a token."""
    relay = Relay(nursery)
    relay.store.create(connection, ["relay.example.com"], [Rule.generate("all", Right)])
    for number, scope in enumerate(scopes):
        relay.token(f"t{number}", scope=scope)
    credentials = OwnCredentials(relay.managed)
    found = await credentials.verify("sharedaccesssignature", relay.signature(name=connection).partition(" ")[2])
    assert found is not None
    assert (found.caller.tenant, found.caller.scope.only) == (tenant, connection)
    assert found.caller.tenant_group == ("keys", tenant)
    again = await credentials.look_up(found.credential)
    assert again is not None
    assert again.caller.tenant == tenant


async def test_an_administrator_and_another_tenant_wait_for_one_change_of_a_tenant(
    api: Api, as_caller: Callable[[Caller], Awaitable[Api]], nursery: trio.Nursery
) -> None:
    changing, in_scope = api.managed._changing, api.managed._changes_in_scope
    made: list[str] = []

    async def make(caller: Caller | None, name: str) -> None:
        await api.managed.change_store(lambda store: made.append(name), caller=caller)

    async def wait_until(tasks: int) -> None:
        async def is_so() -> bool:
            return changing.statistics().tasks_waiting == tasks

        await async_wait_until(is_so, seconds=20, what="they wait")

    earlier = object()  # a change that is being made
    await changing.acquire_on_behalf_of(earlier)
    for number in range(3):
        nursery.start_soon(make, with_key(f"team/{number}", "team/"), f"key {number}")
        await trio.testing.wait_all_tasks_blocked()
    await wait_until(1)
    for caller, name in ((OTHER, "other"), (TEAM, "team")):
        nursery.start_soon(make, caller, name)
        await trio.testing.wait_all_tasks_blocked()
    assert len(in_scope) == 3, "the keys of a tenant wait for one another"
    nursery.start_soon(make, None, "admin")
    await wait_until(2)
    changing.release_on_behalf_of(earlier)

    async def all_are_made() -> bool:
        return len(made) == 6

    await async_wait_until(all_are_made, seconds=20, what="all are made")
    assert made == ["key 0", "admin", "other", "team", "key 1", "key 2"]
    assert len(in_scope) == 0
