"""Shows authorization rules and their keys, and replaces or revokes keys."""

from __future__ import annotations

from typing import TypeVar

import attrs

from ..._value import Value
from ...http import RequestError, Response
from ...security import ManagementRole, check_rule_name
from ..live_values import ListenerPage, SenderPage, SessionPage
from ..problem_kinds import Problem
from ..problems import problem
from ..values import AccessKeys, AuthorizationRule, ConnectionValue, KeyValue
from .confirming import confirmation
from .forms import NOTHING_ENTERED, Entered, refused, version_untrusted
from .html import Child, Element, h
from .layout import View, redirect
from .messages import done
from .page import Page
from .parts import api_line, badge, button, command, field, post_form, section, table
from .paths import parents_of, path_of
from .shown import moment, name_of, present, segment
from .visit import Visit

__all__ = ["RULE_PAGES", "rules_section"]

_SLOTS = ("primary", "secondary")
_RIGHTS = {"Listen": "for connectors", "Send": "for applications", "Manage": "for the management API"}
_PER_PAGE, _MAX_PAGES = 1000, 20
PageT = TypeVar("PageT", ListenerPage, SenderPage, SessionPage)


def rules_section(visit: Visit, found: ConnectionValue) -> Element:
    """Make the part of a hybrid connection's page that shows its rules."""
    rows: list[list[Child]] = []
    for rule in found.authorization_rules:
        at = f"{path_of(found.name)}/rules/{segment(rule.name)}"
        for index, key in enumerate(rule.keys):
            rows.append(
                [
                    h("b", name_of(rule.name)) if index == 0 else name_of(rule.name),
                    ", ".join(rule.rights),
                    key.slot,
                    h("code", key.fingerprint) if key.fingerprint else badge("No key"),
                    moment(key.last_used) if key.generation else "",
                    _actions(at, rule, key, index) if visit.is_admin else None,
                ]
            )
    return section(
        "Rules and keys",
        table("Rules and keys", ("Rule", "Rights", "Slot", "Key's fingerprint", "Last used", ""), rows),
        api_line(visit, f"/v1/hybridConnections/{segment(found.name)}/authorizationRules"),
        id_="rules",
        note="Listen is for connectors, Send for applications, Manage for the management API. "
        "Both keys of a rule are valid.",
        actions=h("a", "Add a rule", href=f"{path_of(found.name)}/add-rule", class_="button")
        if visit.is_admin
        else None,
    )


def _actions(at: str, rule: AuthorizationRule, key: KeyValue, index: int) -> Child:
    what = f"the {key.slot} key of {rule.name}"
    return [
        h("a", "Regenerate" if key.generation else "Generate", href=f"{at}/regenerate?slot={key.slot}",
          class_="button quiet inline", aria_label=f"{'Regenerate' if key.generation else 'Generate'} {what}"),
        h("a", "Revoke", href=f"{at}/revoke?slot={key.slot}", class_="button quiet danger inline",
          aria_label=f"Revoke {what}") if key.generation else None,
        post_form(f"{at}/keys", button("Show keys", kind="quiet", label=f"Show keys of {rule.name}"))
        if index == 0 else None,
        h("a", "Roll", href=f"{at}/roll", class_="button quiet inline", aria_label=f"Roll a key of {rule.name}")
        if index == 0 and any(one.generation for one in rule.keys) else None,
        h("a", "Delete", href=f"{at}/delete", class_="button quiet danger inline", aria_label=f"Delete {rule.name}")
        if index == 0 else None,
    ]  # fmt: skip


@attrs.frozen
class _Affected(Value):
    """The numbers of current listeners, senders and sessions that a key has authorized."""

    listeners: int
    senders: int
    sessions: int
    #: Whether the numbers are exact. False if there are too many to count.
    is_exact: bool

    def __str__(self) -> str:
        found = present(self.listeners, self.senders, self.sessions)
        return found if self.is_exact else f"at least {found}"


async def _affected(visit: Visit, name: str, rule: str, slot: str) -> _Affected:
    is_exact = True

    async def pages(id_: str, kind: type[PageT]) -> list[PageT]:
        nonlocal is_exact
        found: list[PageT] = []
        query: dict[str, object] = {"limit": _PER_PAGE}
        while len(found) < _MAX_PAGES:
            found.append(await visit.get(id_, kind, query=query, name=name))
            cursor = found[-1].next_cursor
            if cursor is None:
                return found
            query["cursor"] = cursor
        is_exact = False
        return found

    key = rule, slot
    listeners = [one for page in await pages("listListeners", ListenerPage) for one in page.value]
    senders = [one for page in await pages("listSenders", SenderPage) for one in page.value]
    sessions = [one for page in await pages("listSessions", SessionPage) for one in page.value]
    return _Affected(
        sum((one.rule, one.slot) == key for one in listeners),
        sum((one.rule, one.slot) == key for one in senders),
        sum(key in ((one.listener.rule, one.listener.slot), (one.sender.rule, one.sender.slot)) for one in sessions),
        is_exact,
    )


def _slot_untrusted(text: str) -> str:
    if text not in _SLOTS:
        raise problem(Problem.INVALID, "a rule has the slots primary and secondary")
    return text


async def _key(visit: Visit, slot: str) -> tuple[str, AuthorizationRule, KeyValue]:
    name, rule_name = visit.param("name"), visit.param("rule")
    rule = await visit.get("getAuthorizationRule", AuthorizationRule, name=name, rule=rule_name)
    (key,) = (key for key in rule.keys if key.slot == slot)
    return name, rule, key


async def _confirm(visit: Visit, action: str, verb: str, then: Child) -> View:
    slot = _slot_untrusted(visit.asked("slot"))
    name, rule, key = await _key(visit, slot)
    affected = await _affected(visit, name, rule.name, slot)
    other = next(one for one in rule.keys if one.slot != slot)
    return confirmation(
        f"{verb} this key?",
        post_form(
            f"{path_of(name)}/rules/{segment(rule.name)}/{action}",
            button(f"{verb} the {slot} key", kind="danger"),
            slot=slot,
            generation=key.generation,
        ),
        h(
            "dl",
            h("div", h("dt", "Hybrid connection"), h("dd", name_of(name))),
            h("div", h("dt", "Rule"), h("dd", name_of(rule.name), f" ({', '.join(rule.rights)})")),
            h("div", h("dt", "Slot"), h("dd", slot)),
            h("div", h("dt", "Fingerprint"), h("dd", h("code", key.fingerprint or "none"))),
            h("div", h("dt", "Last used"), h("dd", moment(key.last_used))),
            class_="facts",
        ),
        h("p", h("b", "What ends immediately: "), str(affected), ".") if key.generation else None,
        h("p", "The programs reconnect by themselves if they have a valid key. ") if key.generation else None,
        h("p", f"The {other.slot} key stays valid, and what it has authorized continues.")
        if other.generation
        else h("p", f"The {other.slot} slot has no key: nobody can use this rule without a new key."),
        h("p", then),
        parents=parents_of(name),
    )


async def _confirm_regenerate(visit: Visit) -> View:
    return await _confirm(
        visit,
        "regenerate",
        "Regenerate",
        "Afterwards, write the new key into the connection strings that contain the old one, with hybridrelay keys "
        "use. If the key has not been stolen, roll it instead: then nothing ends.",
    )


async def _confirm_revoke(visit: Visit) -> View:
    return await _confirm(visit, "revoke", "Revoke", "The slot stays empty until a key is generated for it.")


async def _regenerate(visit: Visit) -> Response:
    return await _change(visit, "regenerateKeys", "key-regenerated")


async def _revoke(visit: Visit) -> Response:
    return await _change(visit, "revokeKeys", "key-revoked")


async def _change(visit: Visit, operation: str, message: str) -> Response:
    form, name = visit.form(), visit.param("name")
    body = {"slot": form.get("slot", ""), "generation": form.get("generation", "")}
    await visit.perform(operation, body=body, name=name, rule=visit.param("rule"))
    return redirect(done(path_of(name), message))


async def _show_keys(visit: Visit) -> View:
    """Show the keys in the response to a POST, so that the browser keeps them neither in its history nor in a
    cache."""
    name, rule = visit.param("name"), visit.param("rule")
    keys, _ = await visit.perform("listKeys", name=name, rule=rule)
    assert isinstance(keys, AccessKeys)
    return View(
        title=f"Keys of the rule {rule}",
        place="/connections",
        parents=(("/connections", "Connections"), (path_of(name), name)),
        is_live=False,
        content=(
            h(
                "section",
                h(
                    "p",
                    "Everyone with a key has the rights of the rule. The audit log of the management API says that "
                    "you have seen the keys.",
                ),
                [
                    _one_key(slot, key)
                    for slot, key in zip(_SLOTS, (keys.primary_key, keys.secondary_key), strict=True)
                ],
                h("p", h("a", "Done", href=path_of(name), class_="button primary")),
                class_="card",
            ),
        ),
    )


def _addition(name: str, entered: Entered = NOTHING_ENTERED) -> Element:
    rights = [
        h(
            "label",
            h("input", type="checkbox", name=right, value="1", checked=bool(entered.value(right, ""))),
            f"{right}: {meaning}",
        )
        for right, meaning in _RIGHTS.items()
    ]
    error = entered.error("rights")
    return post_form(
        f"{path_of(name)}/add-rule",
        h(
            "p",
            "A rule has two keys of its own, so that one application can be excluded without affecting the others.",
        ),
        field(
            "Name",
            "rule",
            entered.value("rule", ""),
            required=True,
            maxlength=256,
            hint="Letters, digits, and . _ -",
            error=entered.error("rule"),
        ),
        h("fieldset", h("legend", "Rights"), rights, h("p", error, class_="field-error") if error else None),
        button("Add", kind="primary"),
    )


async def _show_addition(visit: Visit) -> View:
    name = visit.param("name")
    await visit.get("getHybridConnection", ConnectionValue, name=name)
    content = (h("div", _addition(name), class_="card"),)
    return View(title="Add a rule", place="/connections", parents=parents_of(name), is_live=False, content=content)


async def _add(visit: Visit) -> View | Response:
    form, name = visit.form(), visit.param("name")
    rights = [right for right in _RIGHTS if form.get(right)]
    try:
        try:
            rule = check_rule_name(form.get("rule", ""))
        except ValueError as exc:
            raise problem(
                Problem.INVALID,
                "the rule needs another name",
                errors=[{"pointer": "/rule", "detail": f"Name: {exc}"}],
            ) from exc
        if not rights:
            error = {"pointer": "/rights", "detail": "Choose at least one right"}
            raise problem(Problem.INVALID, "the rule needs a right", errors=[error])
        await visit.perform("putAuthorizationRule", body={"rights": rights}, only_create=True, name=name, rule=rule)
    except RequestError as exc:
        if exc.failure.status == Problem.PRECONDITION_FAILED.status:
            error = {"pointer": "/rule", "detail": "Name: there is already a rule with this name"}
            exc = problem(Problem.EXISTS, "the rule needs another name", errors=[error])
        refusal = refused(exc, form, ("rule", "rights"))
        content = _addition(name, refusal.entered)
        return refusal.view("Add a rule", content, place="/connections", parents=parents_of(name))
    return redirect(done(path_of(name), "rule-added"))


async def _confirm_delete(visit: Visit) -> View:
    name, rule = visit.param("name"), visit.param("rule")
    _, version = await visit.get_versioned("getAuthorizationRule", AuthorizationRule, name=name, rule=rule)
    affected = [f"{slot} key: {await _affected(visit, name, rule, slot)}" for slot in _SLOTS]
    return confirmation(
        "Delete this rule?",
        post_form(
            f"{path_of(name)}/rules/{segment(rule)}/delete",
            button("Delete", kind="danger"),
            version=version or 0,
        ),
        h("p", "Rule: ", h("b", name_of(rule))),
        h("p", h("b", "What ends immediately: ")),
        h("ul", [h("li", one) for one in affected]),
        h("p", "Connection strings with a key of this rule no longer work."),
        parents=parents_of(name),
    )


async def _delete(visit: Visit) -> Response:
    name = visit.param("name")
    version = version_untrusted(visit.form())
    await visit.perform("deleteAuthorizationRule", version=version, name=name, rule=visit.param("rule"))
    return redirect(done(path_of(name), "rule-deleted"))


def _one_key(slot: str, key: str | None) -> Child:
    return [h("h2", slot.capitalize()), h("p", badge("No key")) if key is None else command(key, f"{slot} key")]


_PATH = "/connections/{name}/rules/{rule}"

RULE_PAGES: tuple[Page, ...] = (
    Page(
        id="confirmRegeneration",
        method="GET",
        role=ManagementRole.ADMIN,
        path=f"{_PATH}/regenerate",
        show=_confirm_regenerate,
    ),
    Page(id="sendRegeneration", method="POST", path=f"{_PATH}/regenerate", show=_regenerate),
    Page(
        id="confirmRevocation", method="GET", role=ManagementRole.ADMIN, path=f"{_PATH}/revoke", show=_confirm_revoke
    ),
    Page(id="sendRevocation", method="POST", path=f"{_PATH}/revoke", show=_revoke),
    Page(
        id="confirmRuleDeletion",
        method="GET",
        role=ManagementRole.ADMIN,
        path=f"{_PATH}/delete",
        show=_confirm_delete,
    ),
    Page(id="sendRuleDeletion", method="POST", path=f"{_PATH}/delete", show=_delete),
    Page(
        id="showRuleAddition",
        method="GET",
        role=ManagementRole.ADMIN,
        path="/connections/{name}/add-rule",
        show=_show_addition,
    ),
    Page(id="sendRuleAddition", method="POST", path="/connections/{name}/add-rule", show=_add),
    Page(id="showKeys", method="POST", path=f"{_PATH}/keys", show=_show_keys),
)
