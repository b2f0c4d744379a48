"""Who sends a request: each kind of caller, what each may do, and how often it may try."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

import attrs
import h11
import pytest
import trio
import trio.testing

from hybridrelay.events import (
    ListenerLeft,
    ManagementCalled,
    ManagementCallRefused,
)
from hybridrelay.http import Failure, RequestError
from hybridrelay.management.callers import Caller, Scope
from hybridrelay.management.handlers import OPERATIONS
from hybridrelay.management.logins import TokenCredential, digest_of
from hybridrelay.management.peers import CertificateRefusal, Peer
from hybridrelay.management.plugins import Credentials
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay import Store
from hybridrelay.security import (
    KeySlot,
    ManagementRole,
    Right,
    Rule,
    Secret,
    audience_for,
    make_token,
)

from .conftest import CONNECTIONS, Api, path_of
from .managed_relay import NOW, Inline, Relay

UNAUTHENTICATED = "urn:hybridrelay:problem:unauthenticated"
FORBIDDEN = "urn:hybridrelay:problem:forbidden"
RATE = "urn:hybridrelay:problem:rate"


@pytest.fixture
async def relay(nursery: trio.Nursery) -> AsyncIterator[Relay]:
    yield Relay(nursery)
    nursery.cancel_scope.cancel()


async def test_nothing_is_shown_without_credentials(relay: Relay, autojump_clock: trio.testing.MockClock) -> None:
    api = relay.connect()
    for path in (CONNECTIONS, "/openapi.json", "/v1/relay"):
        answer, document = await api.call("GET", path)
        assert (answer.status, document["type"]) == (401, UNAUTHENTICATED)
        assert answer.headers["www-authenticate"]
        assert document["requestId"] == answer.headers["request-id"]
    answer, document = await api.call("GET", "/nowhere")
    assert (answer.status, document["requestId"]) == (404, answer.headers["request-id"])
    assert relay.failures() == []


async def test_a_token_opens_what_its_role_may_see(relay: Relay, autojump_clock: trio.testing.MockClock) -> None:
    api = relay.connect()
    token, header = relay.token()
    answer, _ = await api.call("GET", CONNECTIONS, Authorization=header)
    assert answer.status == 200
    assert len(answer.headers["request-id"]) == 16
    assert (await api.call("GET", CONNECTIONS, Authorization=header.replace("Bearer", "bearer")))[0].status == 200
    # The same id with another secret.
    wrong = header[:-1] + ("a" if header[-1] != "a" else "b")
    assert (await api.call("GET", CONNECTIONS, Authorization=wrong))[0].status == 401
    relay.store.delete_token(token.id)
    assert (await api.call("GET", CONNECTIONS, Authorization=header))[0].status == 401
    assert relay.failures() == ["the token is unknown, or was revoked"] * 2


async def test_a_token_that_has_expired(relay: Relay, autojump_clock: trio.testing.MockClock) -> None:
    api = relay.connect()
    token, header = relay.token()
    relay.now = token.expires_at - 0.1
    assert (await api.call("GET", CONNECTIONS, Authorization=header))[0].status == 200
    relay.now = token.expires_at
    answer, document = await api.call("GET", CONNECTIONS, Authorization=header)
    assert (answer.status, document["type"]) == (401, UNAUTHENTICATED)
    assert relay.failures() == [f"the token ci ({token.id}) has expired"]


async def test_a_token_is_the_identity_even_where_the_connection_has_one(
    relay: Relay, autojump_clock: trio.testing.MockClock
) -> None:
    owner = Peer(caller=Caller("local", "uid 0", ManagementRole.ADMIN))
    api = relay.connect(owner)
    _, header = relay.token(role=ManagementRole.VIEWER)
    assert (await api.call("DELETE", f"{CONNECTIONS}/other"))[0].status == 204
    assert (await api.call("DELETE", f"{CONNECTIONS}/orders", Authorization=header))[0].status == 403
    assert (await api.call("GET", CONNECTIONS, Authorization="Bearer x"))[0].status == 401


@pytest.mark.parametrize("kind", ["token", "certificate", "plugin"])
async def test_a_viewer_who_tries_everything(relay: Relay, autojump_clock: trio.testing.MockClock, kind: str) -> None:
    """Every operation of the table, over every kind of caller that can be a viewer."""
    viewer = Caller(kind, "v", ManagementRole.VIEWER)
    relay.authenticators.append(("plugin", Fixed(viewer)))
    headers = {
        "token": {"Authorization": relay.token(role=ManagementRole.VIEWER)[1]},
        "certificate": {},
        "plugin": {"Authorization": "Bearer something"},
    }[kind]
    api = relay.connect(Peer("192.0.2.1", viewer) if kind == "certificate" else None)
    before, tokens = relay.store.list(), relay.store.tokens()
    for row in OPERATIONS:
        body: object = None if row.body is None else {}
        answer, document = await api.call(row.method, path_of(row.path), body, **headers)
        if row.role > ManagementRole.VIEWER:
            assert (answer.status, document["type"]) == (403, FORBIDDEN), row.id
        else:
            assert answer.status in (200, 404), row.id
    assert (relay.store.list(), relay.store.tokens()) == (before, tokens)
    audited = [event for event in relay.events if isinstance(event, ManagementCalled)]
    assert [event.operation_id for event in audited] == [row.id for row in OPERATIONS if row.is_audited]
    assert {(event.role, event.peer, event.status) for event in audited} == {("viewer", "192.0.2.1", 403)}


async def test_a_signature_is_for_its_hybrid_connection_alone(
    relay: Relay, autojump_clock: trio.testing.MockClock
) -> None:
    api = relay.connect()
    header = relay.signature()
    relay.store.create("orders-eu", ["relay.example.com"], [Rule.generate("all", Right)])
    assert (await api.call("GET", f"{CONNECTIONS}/orders", Authorization=header))[0].status == 200
    assert (await api.call("GET", f"{CONNECTIONS}/orders-eu", Authorization=header))[0].status == 403
    _, listed = await api.call("GET", CONNECTIONS, Authorization=header)
    assert [one["name"] for one in listed["value"]] == ["orders"]
    assert (await api.call("GET", "/v1/relay", Authorization=header))[1]["connectionCount"] == 1
    for method, path in (("GET", f"{CONNECTIONS}/other"), ("GET", "/v1/usage"), ("GET", "/v1/tokens")):
        answer, document = await api.call(method, path, Authorization=header)
        assert (answer.status, document["type"]) == (403, FORBIDDEN), path
    rule = f"{CONNECTIONS}/orders/authorizationRules/in"
    assert (await api.call("POST", f"{rule}/listKeys", Authorization=header))[0].status == 200
    generation = relay.store.get("orders").generations
    for (name, slot), number in generation.items():
        if name == "all":
            body = {"slot": slot.value, "generation": number}
            path = f"{CONNECTIONS}/orders/authorizationRules/all/regenerateKeys"
            last, _ = await api.call("POST", path, body, Authorization=header)
            if slot.value == "primary":
                break
    assert last.status == 200
    # Its own key has been replaced.
    assert (await api.call("GET", f"{CONNECTIONS}/orders", Authorization=header))[0].status == 401


async def test_signatures_that_are_refused(relay: Relay, autojump_clock: trio.testing.MockClock) -> None:
    answer, document = await relay.connect().call("GET", CONNECTIONS, Authorization=relay.signature("in"))
    assert (answer.status, document["type"]) == (403, FORBIDDEN)
    wrong = [
        relay.signature(seconds=-301),
        relay.signature(audience="http://relay.example.com/"),
        relay.signature(audience="http://other.example.com/orders"),
        relay.signature(audience="http://relay.example.com/nowhere"),
        relay.signature().replace("sig=", "sig=A"),
        "SharedAccessSignature x",
        "SharedAccessSignature",
        make_token(audience_for("relay.example.com", "orders"), "all", Secret("guess"), relay.now + 60),
    ]
    for number, header in enumerate(wrong):
        api = relay.connect(Peer(f"192.0.2.{number}"))
        answer, document = await api.call("GET", f"{CONNECTIONS}/orders", Authorization=header)
        assert (answer.status, document["type"]) == (401, UNAUTHENTICATED), header
    assert len(relay.failures()) == 1 + len(wrong)
    assert not any("sig=" in detail for detail in relay.failures())


async def test_signatures_without_the_right_manage_are_failed_attempts(
    relay: Relay, autojump_clock: trio.testing.MockClock
) -> None:
    api = relay.connect()
    path, header = f"{CONNECTIONS}/orders", relay.signature("in")
    for _ in range(5):
        began = trio.current_time()
        assert (await api.call("GET", path, Authorization=header))[0].status == 403
        assert trio.current_time() - began == pytest.approx(0.25)
    began = trio.current_time()
    answer, document = await api.call("GET", path, Authorization=header)
    assert (answer.status, document["type"]) == (429, RATE)
    assert trio.current_time() - began == pytest.approx(1)
    assert relay.failures() == ["the key's rule does not have the right Manage"] * 5
    assert (await api.call("GET", path, Authorization=relay.signature()))[0].status == 200


@attrs.define
class Fixed:
    """Accepts one kind of credentials."""

    caller: Caller | None
    seen: list[Credentials] = attrs.field(factory=list)

    async def authenticate(self, credentials: Credentials) -> Caller | None:
        self.seen.append(credentials)
        await trio.lowlevel.checkpoint()
        return self.caller


async def begin(api: Api, method: str, path: str, *fields: tuple[str, str]) -> None:
    """Send the head of a request."""
    await api.client.send(h11.Request(method=method, target=path, headers=[("Host", "x"), *fields]))
    await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("by", ["token", "certificate", "login with a token", "login that has ended"])
async def test_a_change_is_refused_if_its_caller_is_nobody_any_more_when_its_body_has_arrived(
    relay: Relay, autojump_clock: trio.testing.MockClock, by: str
) -> None:
    """However soon that is."""
    token, header = relay.token()
    certificate = Peer("192.0.2.1", Caller("certificate", "x", ManagementRole.ADMIN), expires_at=NOW + 10)
    api = relay.connect(certificate if by == "certificate" else None)
    fields = [("Content-Type", "application/json"), ("Content-Length", "2")]
    login = digest_of("text")
    if by == "token":
        fields.append(("Authorization", header))
    elif by.startswith("login"):
        relay.gate.logins.begin(login, TokenCredential(token.id), now=NOW, valid_until=NOW + 60)
        fields += [("Cookie", "hybridrelay=text"), ("Sec-Fetch-Site", "same-origin")]
    await begin(api, "PUT", f"{CONNECTIONS}/new", *fields)
    if by == "certificate":
        relay.now += 10
    elif by == "login that has ended":
        relay.gate.logins.end(login)
    else:
        relay.store.delete_token(token.id)
    await api.client.send(h11.Data(data=b"{}"))
    await api.client.send(h11.EndOfMessage())
    assert (await api.client.answer()).status == 401
    assert "new" not in relay.store.snapshot()


async def test_a_plug_in_that_knows_one_hybrid_connection_cannot_create_it(
    relay: Relay, autojump_clock: trio.testing.MockClock
) -> None:
    """Like a key, whose hybrid connection may have been deleted while its request waited."""
    relay.authenticators.append(("idp", Fixed(Caller("", "ann", ManagementRole.ADMIN, Scope(only="orders")))))
    api = relay.connect()
    path, endpoints = f"{CONNECTIONS}/orders", {"endpoints": ["relay.example.com"]}
    rules = [{"name": "mine", "rights": ["Manage", "Listen", "Send"]}]
    assert (await api.call("PUT", path, endpoints, Authorization="Bearer x"))[0].status == 200
    relay.store.delete("orders")
    for body in (endpoints, {**endpoints, "authorizationRules": rules}):
        assert (await api.call("PUT", path, body, Authorization="Bearer x"))[0].status == 404
    assert "orders" not in relay.store.snapshot()


async def test_a_request_with_two_credentials_is_refused(
    relay: Relay, autojump_clock: trio.testing.MockClock
) -> None:
    """Something on the way may have looked at the other one."""
    api = relay.connect()
    await begin(api, "GET", CONNECTIONS, *(("Authorization", relay.token(name)[1]) for name in ("a", "b")))
    await api.client.send(h11.EndOfMessage())
    assert (await api.client.answer()).status == 401
    assert len(relay.failures()) == 1


async def test_further_ways_to_identify_callers(relay: Relay, autojump_clock: trio.testing.MockClock) -> None:
    unknown, known = Fixed(None), Fixed(Caller("local", "ann", ManagementRole.ADMIN, Scope("ord")))
    relay.authenticators += [("first", unknown), ("second", known)]
    api = relay.connect()
    assert (await api.call("DELETE", f"{CONNECTIONS}/orders", Authorization="Basic abc"))[0].status == 204
    (event,) = (event for event in relay.events if isinstance(event, ManagementCalled))
    assert event.caller == "second ann"  # it cannot pretend to be of another kind
    assert (await api.call("GET", "/v1/usage", Authorization="Basic abc"))[0].status == 403
    assert known.seen[0] == Credentials("basic", "abc", "192.0.2.1")
    assert "abc" not in repr(known.seen[0])
    known.caller = None
    assert (await api.call("GET", CONNECTIONS, Authorization="Basic abc"))[0].status == 401


async def test_authenticators_get_no_very_long_credentials(
    relay: Relay, autojump_clock: trio.testing.MockClock
) -> None:
    known = Fixed(Caller("", "ann", ManagementRole.VIEWER))
    relay.authenticators.append(("known", known))
    for size, status in ((8192, 200), (8193, 401)):
        header = "Basic ".ljust(size, "x")
        assert (await relay.connect().call("GET", CONNECTIONS, Authorization=header))[0].status == status
    assert len(known.seen) == 1


async def test_authenticators_get_no_credentials_after_failed_attempts(
    relay: Relay, autojump_clock: trio.testing.MockClock
) -> None:
    known = Fixed(None)
    relay.authenticators.append(("known", known))
    api = relay.connect()
    for _ in range(5):
        assert (await api.call("GET", CONNECTIONS, Authorization="Basic guess"))[0].status == 401
    known.caller = Caller("", "ann", ManagementRole.VIEWER)
    assert (await api.call("GET", CONNECTIONS, Authorization="Basic right"))[0].status == 429
    assert len(known.seen) == 5
    await trio.sleep(12)
    assert (await api.call("GET", CONNECTIONS, Authorization="Basic right"))[0].status == 200


async def test_one_that_does_not_answer(relay: Relay, autojump_clock: trio.testing.MockClock) -> None:
    class Hanging:
        async def authenticate(self, credentials: Credentials) -> Caller | None:
            await trio.sleep_forever()
            raise AssertionError

    relay.authenticators.append(("idp", Hanging()))
    answer, document = await relay.connect().call("GET", CONNECTIONS, Authorization="Bearer x")
    assert (answer.status, "idp did not answer" in document["detail"]) == (503, True)


async def test_one_that_cannot_be_asked_is_not_asked_without_limit(
    relay: Relay, autojump_clock: trio.testing.MockClock
) -> None:
    asked = []

    class Unreachable:
        async def authenticate(self, credentials: Credentials) -> Caller | None:
            asked.append(credentials)
            await trio.sleep(1)
            raise RequestError(Failure(503, "the identity provider cannot be reached"))

    relay.authenticators.append(("idp", Unreachable()))
    api = relay.connect()
    statuses = [(await api.call("GET", CONNECTIONS, Authorization="Bearer x"))[0].status for _ in range(7)]
    assert (statuses, len(asked)) == ([503] * 5 + [429] * 2, 5)


async def test_failed_attempts_are_limited_by_address(relay: Relay, autojump_clock: trio.testing.MockClock) -> None:
    api = relay.connect(Peer("2001:db8::1"))
    _, good = relay.token()
    for _ in range(5):
        assert (await api.call("GET", CONNECTIONS, Authorization="Bearer x"))[0].status == 401
    # Now failures are slowed down, whichever address of the network they come from.
    neighbour = relay.connect(Peer("2001:db8::2"))
    for header in ("Bearer x", good[:-43] + "a" * 43):
        answer, document = await neighbour.call("DELETE", f"{CONNECTIONS}/orders", Authorization=header)
        assert (answer.status, document["type"]) == (429, RATE)
        assert 1 <= int(answer.headers["retry-after"]) <= 12
    assert len(relay.failures()) == 5
    # Valid credentials of the relay are not affected, and get no delay.
    began = trio.current_time()
    for header in (good, relay.signature()):
        assert (await neighbour.call("GET", CONNECTIONS, Authorization=header))[0].status == 200
    assert trio.current_time() == began
    elsewhere = relay.connect(Peer("2001:db8:0:1::1"))
    assert (await elsewhere.call("GET", CONNECTIONS, Authorization="Bearer x"))[0].status == 401
    await trio.sleep(12)
    assert (await neighbour.call("GET", CONNECTIONS, Authorization="Bearer x"))[0].status == 401
    audited = [event for event in relay.events if isinstance(event, (ManagementCalled, ManagementCallRefused))]
    assert [(type(event), event.status) for event in audited] == [(ManagementCallRefused, 429)] * 2


@pytest.mark.parametrize("kind", ["token", "certificate", "unknown"])
async def test_requests_are_limited_by_caller(
    relay: Relay, autojump_clock: trio.testing.MockClock, kind: str
) -> None:
    headers = {"Authorization": relay.token()[1]} if kind == "token" else {}
    caller = Caller("certificate", "x", ManagementRole.VIEWER) if kind == "certificate" else None
    statuses: list[int] = []
    began = trio.current_time()

    async def ask(api: Api) -> None:
        statuses.append((await api.call("GET", "/v1/relay", **headers))[0].status)

    async with trio.open_nursery() as asking:
        for _ in range(101):
            asking.start_soon(ask, relay.connect(Peer("192.0.2.1", caller)))
    assert sorted(statuses) == [401 if kind == "unknown" else 200] * 100 + [429]
    assert trio.current_time() > began  # it had to wait for this answer
    other = relay.connect(Peer("192.0.2.2"))
    assert (await other.call("GET", "/v1/relay", Authorization=relay.token("other")[1]))[0].status == 200


@pytest.mark.parametrize("is_page", [False, True], ids=["operation", "page"])
async def test_a_call_over_the_limit_is_audited_with_its_caller(
    relay: Relay, autojump_clock: trio.testing.MockClock, is_page: bool
) -> None:
    token, header = relay.token()
    path = "/connections/orders/delete" if is_page else f"{CONNECTIONS}/orders/authorizationRules/all/listKeys"
    statuses: list[int] = []

    async def ask(api: Api) -> None:
        statuses.append((await api.call("POST", path, Authorization=header))[0].status)

    async with trio.open_nursery() as asking:
        for _ in range(110):
            asking.start_soon(ask, relay.connect(Peer("192.0.2.1")))
    assert statuses.count(429) == 10
    audited = [event for event in relay.events if isinstance(event, (ManagementCalled, ManagementCallRefused))]
    over = [event for event in audited if event.status == 429]
    assert len(over) == 10
    assert {event.caller for event in over if isinstance(event, ManagementCalled)} == {f"token ci {token.id}"}
    assert not any(isinstance(event, ManagementCallRefused) for event in audited)


async def test_the_owner_on_the_socket_is_not_limited(relay: Relay, autojump_clock: trio.testing.MockClock) -> None:
    api = relay.connect(Peer(caller=Caller("local", "uid 0", ManagementRole.ADMIN)))
    assert {(await api.call("GET", "/v1/relay"))[0].status for _ in range(300)} == {200}


async def test_a_connection_whose_ca_is_no_longer_in_use_is_closed_and_is_no_failed_attempt(
    relay: Relay, autojump_clock: trio.testing.MockClock
) -> None:
    caller, is_trusted = Caller("certificate", "x", ManagementRole.ADMIN), True
    peer = Peer("192.0.2.1", caller, is_trusted=lambda: is_trusted)
    for _ in range(20):
        api = relay.connect(peer)
        is_trusted = True
        answer, _ = await api.call("GET", CONNECTIONS)
        assert (answer.status, answer.headers.get("connection")) == (200, None)
        is_trusted = False
        answer, problem = await api.call("GET", CONNECTIONS)
        assert (answer.status, answer.headers.get("connection")) == (401, "close")
        assert problem["detail"] == "the CA of the client certificate is no longer in use"
    assert relay.failures() == []
    api = relay.connect(Peer("192.0.2.1"))
    answer, problem = await api.call("GET", CONNECTIONS, Authorization="Bearer wrong")
    assert answer.status == 401, "the address has failed attempts left"


async def test_a_client_certificate_ends_when_it_expires(
    relay: Relay, autojump_clock: trio.testing.MockClock
) -> None:
    api = relay.connect(Peer("192.0.2.1", Caller("certificate", "x", ManagementRole.ADMIN), expires_at=NOW + 10))
    assert (await api.call("GET", CONNECTIONS))[0].status == 200
    relay.now = NOW + 10
    answer, problem = await api.call("GET", CONNECTIONS)
    assert (answer.status, problem["detail"]) == (401, "the client certificate has expired")
    assert problem["remedy"].startswith("use one that is valid; or send the header 'Authorization: Bearer TOKEN'")
    named_nobody = relay.connect(Peer("192.0.2.1", refusal=CertificateRefusal("the OU is wrong", "correct it")))
    answer, problem = await named_nobody.call("GET", CONNECTIONS)
    assert (answer.status, problem["detail"]) == (401, "the OU is wrong")
    assert problem["remedy"].startswith("correct it; or send the header")
    assert relay.failures() == ["the client certificate has expired", "the OU is wrong"]


async def test_other_web_sites_cannot_use_a_browsers_certificate(
    relay: Relay, autojump_clock: trio.testing.MockClock
) -> None:
    api = relay.connect(Peer("192.0.2.1", Caller("certificate", "x", ManagementRole.ADMIN)))
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        began = trio.current_time()
        assert (await api.call("GET", CONNECTIONS, Sec_Fetch_Site=site))[0].status == status
        assert trio.current_time() - began == pytest.approx(0.25 if status == 403 else 0)


async def test_the_last_use_is_written_once_a_minute(relay: Relay, autojump_clock: trio.testing.MockClock) -> None:
    writes: list[object] = []
    write = relay.store.set_last_use_of_tokens

    def counted(uses: Mapping[str, float]) -> None:
        writes.append(uses)
        write(uses)

    relay.store.set_last_use_of_tokens = counted  # type: ignore[method-assign]
    relay.nursery.start_soon(relay.gate.save_uses)
    token, header = relay.token()
    api = relay.connect()
    for _ in range(50):
        relay.now += 1
        assert (await api.call("GET", "/v1/relay", Authorization=header))[0].status == 200
    assert writes == []
    await trio.sleep(61)
    await trio.sleep(300)
    assert writes == [{token.id: NOW + 50}]
    assert relay.store.tokens()[0].last_used_at == NOW + 50


async def test_the_audit_log_has_what_was_refused(relay: Relay, autojump_clock: trio.testing.MockClock) -> None:
    api = relay.connect()
    answer, _ = await api.call("DELETE", f"{CONNECTIONS}/orders")
    assert answer.status == 401
    answer2, _ = await api.call(
        "POST", f"{CONNECTIONS}/orders/authorizationRules/all/listKeys", Authorization="Bearer x"
    )
    await api.call("GET", CONNECTIONS)
    audited = [event for event in relay.events if isinstance(event, ManagementCallRefused)]
    assert [(e.operation_id, e.peer, e.connection, e.rule, e.status, e.request_id) for e in audited] == [
        ("deleteHybridConnection", "192.0.2.1", "orders", "", 401, answer.headers["request-id"]),
        ("listKeys", "192.0.2.1", "orders", "all", 401, answer2.headers["request-id"]),
    ]
    assert not any(isinstance(event, ManagementCalled) for event in relay.events)


async def test_a_refused_request_waits_for_its_answer(relay: Relay, autojump_clock: trio.testing.MockClock) -> None:
    for headers in ({}, {"Authorization": "Bearer x"}):
        began = trio.current_time()
        assert (await relay.connect().call("GET", "/v1/relay", **headers))[0].status == 401
        assert trio.current_time() - began == pytest.approx(0.25)


def revoke_token(relay: Relay) -> None:
    (token,) = relay.store.tokens()
    relay.store.delete_token(token.id)


def let_token_expire(relay: Relay) -> None:
    (token,) = relay.store.tokens()
    relay.now = token.expires_at


@pytest.mark.parametrize(
    ("kind", "end", "status"),
    [
        ("token", lambda relay: None, 204),
        ("token", revoke_token, 401),
        ("token", let_token_expire, 401),
        ("key", lambda relay: None, 204),
        ("key", lambda relay: relay.store.revoke_key("orders", "all", KeySlot.PRIMARY), 401),
        ("key", lambda relay: relay.store.regenerate_key("orders", "all", KeySlot.PRIMARY), 401),
        ("key", lambda relay: relay.store.delete_rule("orders", "all"), 401),
        ("key", lambda relay: relay.store.delete("orders"), 401),
    ],
)
async def test_a_change_that_waits_for_others_is_only_made_while_its_credential_is_valid(
    relay: Relay,
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    end: Callable[[Relay], None],
    status: int,
) -> None:
    """Otherwise, somebody with a stolen token could make others with requests that wait while it is revoked."""
    turn, change_store = trio.Event(), Inline.change_store

    async def wait_for_turn(
        self: Inline, function: Callable[[Store], object], *, caller: Caller | None = None
    ) -> object:
        await turn.wait()
        return await change_store(self, function, caller=caller)

    headers = {"Authorization": relay.signature() if kind == "key" else relay.token()[1]}
    monkeypatch.setattr(Inline, "change_store", wait_for_turn)
    api, answers = relay.connect(), []

    async def delete() -> None:
        answers.append(await api.call("DELETE", f"{CONNECTIONS}/orders/authorizationRules/in", **headers))

    nursery.start_soon(delete)
    await trio.testing.wait_all_tasks_blocked()
    assert not answers
    end(relay)
    left = relay.store.list()
    turn.set()
    while not answers:
        await trio.testing.wait_all_tasks_blocked()
    assert answers[0][0].status == status
    assert (relay.store.list() == left) == (status != 204)


async def follow(relay: Relay, header: str) -> trio.abc.Stream:
    """Begin to follow events, and return the connection."""
    api = relay.connect()
    request = f"GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: {header}\r\nAccept: text/event-stream\r\n\r\n"
    await api.client.stream.send_all(request.encode())
    return api.client.stream


async def received_until_end(stream: trio.abc.Stream) -> bytes:
    received = b""
    while data := await stream.receive_some():
        received += data
    return received


@pytest.mark.parametrize("kind", ["token", "key"])
async def test_a_stream_of_events_ends_soon_after_its_credential_was_revoked(
    relay: Relay, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, kind: str
) -> None:
    relay.managed.events.subscribe(relay.managed.feed)
    stream = await follow(relay, relay.token()[1] if kind == "token" else relay.signature())

    async def publish() -> None:
        for number in range(100):
            await trio.sleep(1)
            relay.managed.events.publish(
                ListenerLeft(connection="orders", instance=f"{number:032}", reason=Reason.NO_ERROR)
            )

    async def revoke() -> None:
        await trio.sleep(20)
        if kind == "token":
            revoke_token(relay)
        else:
            relay.store.revoke_key("orders", "all", KeySlot.PRIMARY)

    nursery.start_soon(publish)
    nursery.start_soon(revoke)
    with trio.fail_after(60):
        received = await received_until_end(stream)
    assert f"{10:032}".encode() in received
    assert f"{30:032}".encode() not in received
    assert 20 <= trio.current_time() <= 30


async def test_a_request_that_waits_for_an_event_gets_none_after_its_token_was_revoked(
    relay: Relay, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    async def revoke() -> None:
        await trio.sleep(5)
        revoke_token(relay)
        await trio.sleep(5)
        relay.managed.events.publish(ListenerLeft(connection="orders", instance="1" * 32, reason=Reason.NO_ERROR))

    relay.managed.events.subscribe(relay.managed.feed)
    since = relay.managed.feed.last
    header = relay.token()[1]
    nursery.start_soon(revoke)
    answer, document = await relay.connect().call("GET", f"/v1/events?since={since}&wait=30", Authorization=header)
    assert (answer.status, document["type"]) == (401, UNAUTHENTICATED)
