"""The page that rolls a key: programs get a new one, and then the old one is revoked."""

from __future__ import annotations

import math
import shlex

from ...http import RequestError, Response
from ...security import ManagementRole
from ..problem_kinds import Problem
from ..problems import problem
from ..roll_values import MAX_GRACE_SECONDS
from ..values import AuthorizationRule, KeyValue
from .forms import NOTHING_ENTERED, Entered, number_untrusted, refused
from .html import Child, Element, h
from .layout import View, redirect
from .management_url import NEXT_LINE, at_the_relay, file_of
from .messages import done
from .page import Page
from .parts import button, command, field, post_form
from .paths import parents_of, path_of
from .shown import moment, name_of, segment
from .visit import Visit

__all__ = ["ROLLING_PAGES", "roll_path"]

_DAY_SECONDS = 86_400
_LEAST_DAYS, _MOST_DAYS = 0.01, MAX_GRACE_SECONDS // _DAY_SECONDS
_USUAL_DAYS = "7"
_DAYS = f"Days: enter a number from {_LEAST_DAYS:g} to {_MOST_DAYS}"


def roll_path(name: str, rule: str) -> str:
    """Return the path of the page that rolls a key of a rule."""
    return f"{path_of(name)}/rules/{segment(rule)}/roll"


def _old_and_new(rule: AuthorizationRule) -> tuple[KeyValue, KeyValue]:
    """Return two keys of a rule: the old one, which programs use now (the one that was used last), and the one in the
    other slot, which the new key replaces.

    Raises:
        RequestError: the rule has no key.
    """
    known = [key for key in rule.keys if key.generation]
    if not known:
        remedy = "generate a key, and put it into connection strings"
        raise problem(Problem.INVALID, f"the rule {rule.name} has no key that programs could use", remedy=remedy)
    old = max(known, key=lambda key: key.last_used or 0.0)
    return old, next(key for key in rule.keys if key is not old)


def _form(name: str, rule: str, slot: str, generation: int | str, entered: Entered = NOTHING_ENTERED) -> Element:
    return post_form(
        roll_path(name, rule),
        field(
            "Days until the old key is revoked at the latest",
            "days",
            entered.value("days", _USUAL_DAYS),
            type_="number",
            required=True,
            min=f"{_LEAST_DAYS:g}",
            max=_MOST_DAYS,
            step="any",
            hint="It is revoked before that, as soon as all programs that the relay knows have the new one.",
            error=entered.error("days"),
        ),
        h(
            "label",
            h("input", type="checkbox", name="wait", value="true", checked=bool(entered.value("wait", ""))),
            "Keep the old key valid until the end of these days, because some programs are not connected now",
        ),
        h("div", button("Roll the key", kind="primary"), h("a", "Cancel", href=path_of(name), class_="button"),
          class_="row"),
        slot=slot,
        generation=generation,
    )  # fmt: skip


async def _show(visit: Visit) -> View:
    name, rule_name = visit.param("name"), visit.param("rule")
    rule = await visit.get("getAuthorizationRule", AuthorizationRule, name=name, rule=rule_name)
    old, new = _old_and_new(rule)
    facts: tuple[tuple[str, Child], ...] = (
        ("Hybrid connection", name_of(name)),
        ("Rule", [name_of(rule.name), f" ({', '.join(rule.rights)})"]),
        ("Old key", [f"{old.slot}, ", h("code", old.fingerprint), ", last used: ", moment(old.last_used)]),
        ("New key", f"{new.slot}: {'the key in this slot is replaced' if new.generation else 'the slot is empty'}"),
    )
    options, where = at_the_relay(visit)
    by_command = NEXT_LINE.join(
        [
            f"hybridrelay keys roll {shlex.quote(name)} --rule {shlex.quote(rule.name)}",
            f"--update {file_of(name)}.authority",
            options,
        ]
    )
    return View(
        title="Roll this key?",
        place="/connections",
        parents=parents_of(name),
        is_live=False,
        content=(
            h(
                "section",
                h("dl", [h("div", h("dt", what), h("dd", value)) for what, value in facts], class_="facts"),
                h("p", "The relay makes a new key, and gives it to the programs that use the old one. They write it "
                  "into their files, and nothing is interrupted. The page of the hybrid connection then shows which "
                  "programs do not have it yet."),
                h("p", "Anyone who has stolen the old key gets the new one, too. If the old key may have been "
                  "stolen, ",
                  h("a", "regenerate it", href=f"{path_of(name)}/rules/{segment(rule.name)}/regenerate?"
                    f"slot={old.slot}"), " instead."),
                _form(name, rule.name, new.slot, new.generation),
                class_="card",
            ),
            h(
                "details",
                h("summary", "If an authority file contains keys of this rule"),
                h("p", "Connection strings that are issued from this file later need the new key. This command rolls "
                  "the key and writes it into the authority file:"),
                command(by_command, "command that rolls the key"),
                h("p", where, class_="note"),
            ),
        ),
    )  # fmt: skip


async def _roll(visit: Visit) -> View | Response:
    form, name, rule = visit.form(), visit.param("name"), visit.param("rule")
    slot, generation = form.get("slot", ""), form.get("generation", "")
    try:
        body = {
            "slot": slot,
            "generation": generation,
            "graceSeconds": _seconds_untrusted(form.get("days", "")),
            "waitForGrace": form.get("wait") == "true",
        }
        await visit.perform("rollKeys", body=body, name=name, rule=rule)
    except RequestError as exc:
        refusal = refused(exc, form, ("days",))
        content = _form(name, rule, slot, generation, refusal.entered)
        return refusal.view("Roll this key?", content, place="/connections", parents=parents_of(name))
    return redirect(done(path_of(name), "key-rolled"))


def _seconds_untrusted(text: str) -> int:
    """Return a number of days in seconds.

    Raises:
        RequestError: it is not a number, or out of range.
    """
    try:
        days = number_untrusted(text.strip())
    except ValueError:
        days = math.nan
    if not _LEAST_DAYS <= days <= _MOST_DAYS:
        error = {"pointer": "/days", "detail": _DAYS}
        raise problem(Problem.INVALID, "the number of days cannot be used", errors=[error])
    return round(days * _DAY_SECONDS)


_PATH = "/connections/{name}/rules/{rule}/roll"

ROLLING_PAGES: tuple[Page, ...] = (
    Page(id="confirmKeyRoll", method="GET", role=ManagementRole.ADMIN, path=_PATH, show=_show),
    Page(id="sendKeyRoll", method="POST", path=_PATH, show=_roll),
)
