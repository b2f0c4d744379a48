"""The handlers of the operations of the management API, and the table of operations."""

# This module is long because it contains a function and a row for each operation on the registry.

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs
import msgspec
import trio

from ..relay import HybridConnection, Store
from ..relay.model import Description
from ..relay.quotas import Quota
from ..relay.store.store import ChangedMeanwhile, NotFound
from ..security import KeySlot, ManagementRole, Right, Role, Rule, Secret, check_hosts
from ..security.names import parse_host_untrusted
from .audit import AUDIT_ROWS
from .callers import Scope
from .calls import Call
from .checkpoints import CHECKPOINT_OPERATIONS
from .claims import CLAIM_OPERATIONS
from .cursors import decode_cursor_untrusted, encode_cursor
from .following import EVENT_ROWS
from .health import HEALTH_ROWS
from .history import HISTORY_ROWS
from .live import LIVE_ROWS
from .operations import Operation, Operations
from .problem_kinds import Problem
from .problems import problem
from .quotas import EDITION_ROWS
from .rolls import ROLL_OPERATIONS
from .scope_limits import check_room
from .tokens import TOKEN_OPERATIONS
from .updates import UPDATE_OPERATIONS
from .usage import USAGE_ROWS
from .values import (
    AccessKeys,
    AuthorizationRule,
    ConnectionBody,
    ConnectionPage,
    ConnectionPatch,
    ConnectionValue,
    KeyBody,
    NewRule,
    PageQuery,
    RevokeBody,
    RuleBody,
    RulePage,
)

__all__ = ["OPERATIONS"]


#: How many hybrid connections of a page are converted before other tasks of the relay may run: about a millisecond.
_AT_A_TIME = 20


# --- hybrid connections


async def _list_connections(call: Call) -> ConnectionPage:
    query = call.query_as(PageQuery)
    after = "" if query.cursor is None else _connection_of_cursor_untrusted(query.cursor)
    # Fetch one more than requested, to know whether there is another page.
    found = await call.managed.read_store(lambda store: _seen(store, call.caller.scope, after, query))
    page, more = found[: query.limit], len(found) > query.limit
    relay = call.managed.relay
    values = []
    for number, one in enumerate(page):
        if number % _AT_A_TIME == 0:
            await trio.lowlevel.checkpoint()
        values.append(ConnectionValue.of(one, relay.connection(one.name), relay.last_use))
    return ConnectionPage(
        value=tuple(values),
        next_cursor=encode_cursor(page[-1].name) if more else None,
    )


def _seen(store: Store, scope: Scope, after: str, query: PageQuery) -> Sequence[HybridConnection]:
    """Return the hybrid connections of the next page that this scope includes, and one more. Runs in a thread."""
    if scope.only is not None:
        is_wanted = scope.only.startswith(query.prefix) and scope.only > after
        return [store.get(scope.only)] if is_wanted and store.exists(scope.only) else []
    shorter, longer = sorted((scope.prefix, query.prefix), key=len)
    if not longer.startswith(shorter):
        return ()
    return store.list(after=after, prefix=longer, limit=query.limit + 1)


def _connection_of_cursor_untrusted(cursor: str) -> str:
    (name,) = decode_cursor_untrusted(cursor, parts=1)
    return name


async def _get_connection(call: Call) -> ConnectionValue:
    return _shown(call, await call.managed.read_store(lambda store: store.get(call.name)))


async def _put_connection(call: Call) -> ConnectionValue:
    body = call.body_as(ConnectionBody)
    hosts = _parse_hosts_untrusted(body.endpoints)
    try:
        description = Description(body.description, body.metadata)
        quota = Quota(body.edition or "", body.limits.parse_untrusted())
        rules = None if body.authorization_rules is None else [_new_rule(rule) for rule in body.authorization_rules]
    except ValueError as exc:
        raise problem(Problem.INVALID, str(exc)) from exc
    created, connection = await call.change_store(
        lambda store: _put(call, store, hosts, description, rules, disabled=body.disabled, quota=quota)
    )
    call.has_created = created
    return _shown(call, connection)


def _parse_hosts_untrusted(endpoints: Sequence[str]) -> tuple[str, ...]:
    """Parse the hosts of a hybrid connection's relays. Raises RequestError, which says which of them is wrong."""
    hosts: list[str] = []
    errors: list[dict[str, str]] = []
    for index, text in enumerate(endpoints):
        try:
            hosts.append(parse_host_untrusted(text, about_ports="connection strings carry the ports"))
        except ValueError as exc:
            errors.append({"pointer": f"/endpoints/{index}", "detail": str(exc)})
    if not errors:
        try:
            return check_hosts(hosts)
        except ValueError as exc:
            errors.append({"pointer": "/endpoints", "detail": str(exc)})
    raise problem(
        Problem.INVALID,
        "the endpoints are not host names or addresses of relays",
        remedy="name each relay once, by its host name or address alone, such as relay.example.com",
        errors=errors,
    )


def _put(
    call: Call,
    store: Store,
    hosts: Sequence[str],
    description: Description,
    rules: list[Rule] | None,
    *,
    disabled: bool,
    quota: Quota,
) -> tuple[bool, HybridConnection]:
    """Create or change a hybrid connection, in a thread. Returns whether it was created, and the result."""
    if not store.exists(call.name):
        if call.caller.scope.only is not None:  # the caller is a key of a hybrid connection that no longer exists
            raise NotFound("there is no such hybrid connection")
        if call.must_exist:
            raise ChangedMeanwhile("there is no such hybrid connection; nothing was changed")
        check_room(call.caller, store)
        new_rules = _usual_rules() if rules is None else rules
        return True, store.create(call.name, hosts, new_rules, description, disabled=disabled, quota=quota)
    if call.only_create:
        raise problem(
            Problem.PRECONDITION_FAILED, "there is already a hybrid connection with this name; nothing was changed"
        )
    if rules is not None:
        raise problem(
            Problem.INVALID,
            "the authorization rules of an existing hybrid connection cannot be changed with this operation",
            remedy="leave out authorizationRules, and use the operations for authorization rules",
            errors=[{"pointer": "/authorizationRules", "detail": "only for a new hybrid connection"}],
        )
    known = store.get(call.name)
    _check_may_set(call, known, quota, disabled=disabled)
    changed = store.change(
        call.name, description=description, hosts=hosts, disabled=disabled, quota=quota, version=call.version
    )
    call.effect.is_unchanged = _is_same(known, changed)
    return False, changed


async def _patch_connection(call: Call) -> ConnectionValue:
    body = call.body_as(ConnectionPatch)
    hosts = None if body.endpoints is msgspec.UNSET else _parse_hosts_untrusted(body.endpoints)
    disabled = None if body.disabled is msgspec.UNSET else body.disabled

    def patch(store: Store) -> HybridConnection:
        known = store.get(call.name)
        text = known.description.text if body.description is msgspec.UNSET else body.description
        metadata = known.description.metadata if body.metadata is msgspec.UNSET else body.metadata
        try:
            description = Description(text, metadata)
        except ValueError as exc:
            raise problem(Problem.INVALID, str(exc)) from exc
        # What was read here must be what is changed, even if the request has no precondition.
        version = known.version if call.version is None else call.version
        edition = known.quota.edition if body.edition is msgspec.UNSET else body.edition or ""
        limits = known.quota.limits if body.limits is msgspec.UNSET else body.limits.parse_untrusted()
        quota = Quota(edition, limits)
        _check_may_set(call, known, quota, disabled=known.disabled if disabled is None else disabled)
        changed = store.change(
            call.name, description=description, hosts=hosts, disabled=disabled, quota=quota, version=version
        )
        call.effect.is_unchanged = _is_same(known, changed)
        return changed

    return _shown(call, await call.change_store(patch))


def _is_same(before: HybridConnection, after: HybridConnection) -> bool:
    """Return whether a change has set every property to the value that it had before."""
    return attrs.evolve(after, version=before.version, updated_at=before.updated_at) == before


def _check_may_set(call: Call, known: HybridConnection, quota: Quota, *, disabled: bool) -> None:
    """Check that a caller with a key does not undo what an administrator has set. Raises RequestError."""
    if call.caller.scope.only is not None and (known.disabled, known.quota) != (disabled, quota):
        raise problem(
            Problem.FORBIDDEN,
            "a key of the hybrid connection does not permit setting disabled, edition and limits",
            remedy="send the current values of disabled, edition and limits, or use a token of the relay",
        )


def _usual_rules() -> Iterable[Rule]:
    return (
        Rule.generate(Role.CONNECTOR.value, {Right.LISTEN}),
        Rule.generate(Role.APPLICATION.value, {Right.SEND}),
    )


def _new_rule(rule: NewRule) -> Rule:
    rights = map(Right, rule.rights)
    if rule.primary_key is msgspec.UNSET and rule.secondary_key is msgspec.UNSET:
        return Rule.generate(rule.name, rights)
    return Rule(rule.name, rights, _secret(rule.primary_key), _secret(rule.secondary_key))


def _secret(key: str | msgspec.UnsetType | None) -> Secret | None:
    return Secret(key) if isinstance(key, str) else None


async def _delete_connection(call: Call) -> None:
    def delete(store: Store) -> None:
        try:
            store.delete(call.name, version=call.version)
        except NotFound:
            if call.must_exist:
                raise ChangedMeanwhile("there is no such hybrid connection; nothing was changed") from None
            call.effect.is_unchanged = True

    await call.change_store(delete)


def _shown(call: Call, connection: HybridConnection) -> ConnectionValue:
    call.shown_version = connection.version
    relay = call.managed.relay
    return ConnectionValue.of(connection, relay.connection(connection.name), relay.last_use)


# --- authorization rules and keys


async def _list_rules(call: Call) -> RulePage:
    connection = await call.managed.read_store(lambda store: store.get(call.name))
    return RulePage(
        value=tuple(AuthorizationRule.of(connection, rule, call.managed.relay.last_use) for rule in connection.rules)
    )


async def _get_rule(call: Call) -> AuthorizationRule:
    rule, connection = await call.managed.read_store(
        lambda store: (store.rule(call.name, call.rule), store.get(call.name))
    )
    return _shown_rule(call, connection, rule)


async def _put_rule(call: Call) -> AuthorizationRule:
    rights = [Right(right) for right in call.body_as(RuleBody).rights]

    def put(store: Store) -> tuple[bool, HybridConnection]:
        known = store.get(call.name)
        is_new = known.rule(call.rule) is None
        if call.only_create and not is_new:
            raise problem(Problem.PRECONDITION_FAILED, "there is already a rule with this name; nothing was changed")
        if call.must_exist and is_new:
            raise ChangedMeanwhile("there is no such rule; nothing was changed")
        changed = store.put_rule(call.name, call.rule, rights, version=call.version)
        call.effect.is_unchanged = _is_same(known, changed)
        return is_new, changed

    call.has_created, connection = await call.change_store(put)
    rule = connection.rule(call.rule)
    assert rule is not None
    return _shown_rule(call, connection, rule)


async def _delete_rule(call: Call) -> None:
    def delete(store: Store) -> None:
        if store.get(call.name).rule(call.rule) is not None:
            store.delete_rule(call.name, call.rule, version=call.version)
        elif call.must_exist:
            raise ChangedMeanwhile("there is no such rule; nothing was changed")
        else:
            call.effect.is_unchanged = True

    await call.change_store(delete)


async def _list_keys(call: Call) -> AccessKeys:
    rule, connection = await call.managed.read_store(
        lambda store: (store.rule(call.name, call.rule), store.get(call.name))
    )
    return AccessKeys.of(connection, rule)


async def _regenerate_key(call: Call) -> AccessKeys:
    body = call.body_as(KeyBody)

    def regenerate(store: Store) -> HybridConnection:
        slot = KeySlot(body.slot)
        store.regenerate_key(call.name, call.rule, slot, _secret(body.key), generation=body.generation)
        return store.get(call.name)

    return _keys(call, await call.change_store(regenerate))


async def _revoke_key(call: Call) -> None:
    body = call.body_as(RevokeBody)
    slot = KeySlot(body.slot)

    def revoke(store: Store) -> None:
        call.effect.is_unchanged = store.get(call.name).key_id(call.rule, slot) is None
        store.revoke_key(call.name, call.rule, slot, generation=body.generation)

    await call.change_store(revoke)


def _keys(call: Call, connection: HybridConnection) -> AccessKeys:
    rule = connection.rule(call.rule)
    if rule is None:  # deleted a moment ago
        raise problem(Problem.NOT_FOUND, "the rule was deleted in the meantime")
    return AccessKeys.of(connection, rule)


def _shown_rule(call: Call, connection: HybridConnection, rule: Rule) -> AuthorizationRule:
    call.shown_version = connection.version
    return AuthorizationRule.of(connection, rule, call.managed.relay.last_use)


_CONNECTIONS = "/v1/hybridConnections"
_CONNECTION = f"{_CONNECTIONS}/{{name}}"
_RULES = f"{_CONNECTION}/authorizationRules"
_RULE = f"{_RULES}/{{rule}}"
#: Where a link to a further operation finds its path parameters: in the path of this operation's request.
_THIS_CONNECTION = {"name": "$request.path.name"}
_THIS_RULE = {**_THIS_CONNECTION, "rule": "$request.path.rule"}
_VIEWER, _ADMIN = ManagementRole.VIEWER, ManagementRole.ADMIN

#: All operations of the management API, except ``/openapi.json``.
OPERATIONS: Operations[Call] = Operations(
    [
        Operation(
            id="listHybridConnections",
            method="GET",
            path=_CONNECTIONS,
            summary="List hybrid connections, sorted by name.",
            role=_VIEWER,
            handler=_list_connections,
            query=PageQuery,
            answer=ConnectionPage,
            filters=True,
        ),
        Operation(
            id="getHybridConnection",
            method="GET",
            path=_CONNECTION,
            summary="Get a hybrid connection.",
            role=_VIEWER,
            handler=_get_connection,
            answer=ConnectionValue,
            versioned=True,
        ),
        Operation(
            id="putHybridConnection",
            method="PUT",
            path=_CONNECTION,
            summary="Create a hybrid connection, or replace its endpoints, description and limits; disable it.",
            role=_ADMIN,
            handler=_put_connection,
            body=ConnectionBody,
            answer=ConnectionValue,
            creates=True,
            versioned=True,
            leads_to=dict.fromkeys(
                ("getHybridConnection", "deleteHybridConnection", "listAuthorizationRules"), _THIS_CONNECTION
            ),
        ),
        Operation(
            id="patchHybridConnection",
            method="PATCH",
            path=_CONNECTION,
            summary="Change some properties of a hybrid connection, such as its limits, and keep the others.",
            role=_ADMIN,
            handler=_patch_connection,
            body=ConnectionPatch,
            answer=ConnectionValue,
            versioned=True,
        ),
        Operation(
            id="deleteHybridConnection",
            method="DELETE",
            path=_CONNECTION,
            summary="Delete a hybrid connection, and end everything that uses it.",
            role=_ADMIN,
            handler=_delete_connection,
            versioned=True,
        ),
        Operation(
            id="listAuthorizationRules",
            method="GET",
            path=_RULES,
            summary="List the authorization rules of a hybrid connection.",
            role=_VIEWER,
            handler=_list_rules,
            answer=RulePage,
        ),
        Operation(
            id="getAuthorizationRule",
            method="GET",
            path=_RULE,
            summary="Get an authorization rule, without its keys.",
            role=_VIEWER,
            handler=_get_rule,
            answer=AuthorizationRule,
            versioned=True,
        ),
        Operation(
            id="putAuthorizationRule",
            method="PUT",
            path=_RULE,
            summary="Add an authorization rule with two new keys, or change its rights.",
            role=_ADMIN,
            handler=_put_rule,
            body=RuleBody,
            leads_to=dict.fromkeys(("getAuthorizationRule", "deleteAuthorizationRule", "listKeys"), _THIS_RULE),
            answer=AuthorizationRule,
            creates=True,
            versioned=True,
        ),
        Operation(
            id="deleteAuthorizationRule",
            method="DELETE",
            path=_RULE,
            summary="Delete an authorization rule and its keys, and end everything that they have authorized.",
            role=_ADMIN,
            handler=_delete_rule,
            versioned=True,
        ),
        Operation(
            id="listKeys",
            method="POST",
            path=f"{_RULE}/listKeys",
            summary="Show the keys of an authorization rule.",
            role=_ADMIN,
            handler=_list_keys,
            answer=AccessKeys,
            shows_secrets=True,
        ),
        Operation(
            id="regenerateKeys",
            method="POST",
            path=f"{_RULE}/regenerateKeys",
            summary="Replace a key of an authorization rule, and end everything that it has authorized.",
            role=_ADMIN,
            handler=_regenerate_key,
            body=KeyBody,
            answer=AccessKeys,
        ),
        Operation(
            id="revokeKeys",
            method="POST",
            path=f"{_RULE}/revokeKeys",
            summary="Revoke a key of an authorization rule, and end everything that it has authorized.",
            role=_ADMIN,
            handler=_revoke_key,
            body=RevokeBody,
        ),
        *ROLL_OPERATIONS,
        *CLAIM_OPERATIONS,
        *UPDATE_OPERATIONS,
        *EDITION_ROWS,
        *LIVE_ROWS,
        *HEALTH_ROWS,
        *HISTORY_ROWS,
        *EVENT_ROWS,
        *AUDIT_ROWS,
        *CHECKPOINT_OPERATIONS,
        *TOKEN_OPERATIONS,
        *USAGE_ROWS,
    ]
)
