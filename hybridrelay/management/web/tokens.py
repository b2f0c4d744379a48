"""The pages about management tokens: the list, a new token, and the confirmation before one is revoked."""

from __future__ import annotations

from ...http import RequestError, Response
from ...security.management_tokens import MAX_TOKEN_SECONDS
from ..problem_kinds import Problem
from ..problems import problem
from ..token_values import DAY_SECONDS, CreatedToken, TokenPage, TokenValue
from .confirming import confirmation
from .forms import NOTHING_ENTERED, Entered, refused
from .html import Child, Element, h
from .layout import View, redirect
from .messages import done
from .page import Page
from .parts import api_line, badge, button, command, empty, field, post_form, section, table
from .shown import moment, name_of, segment
from .visit import Visit

__all__ = ["TOKEN_PAGES"]

_PLACE = "/tokens"
_API = "/v1/tokens"
_ROLES = {
    "viewer": "sees everything except keys and tokens",
    "operator": "also ends listeners, senders and sessions, and drains the relay",
    "admin": "also changes everything, and sees keys",
}
#: The errors for the fields of the form.
_EXPLAINED = {
    "name": "Name: enter 1 to 64 letters, digits, and . _ @ -",
    "role": "Role: choose viewer, operator or admin",
    "scope": "Scope: enter the beginning of a name, such as team/, or leave it empty",
    "expiresInDays": f"Valid for (days): enter a number from 0.01 to {MAX_TOKEN_SECONDS // DAY_SECONDS:g}",
}
_COLUMNS = ("Name", "Role", "Scope", "Created", "Expires", "Last used", "")


async def _show_all(visit: Visit) -> View:
    page = await visit.get("listTokens", TokenPage)
    now = visit.managed.clock()
    rows = [_row(visit, one, now) for one in page.value]
    return View(
        title="Tokens",
        place=_PLACE,
        content=(
            section(
                "Management tokens",
                table("Management tokens", _COLUMNS, rows) if rows else empty("There is no token."),
                api_line(visit, _API),
                id_="tokens",
                note="Programs and browsers identify themselves with a token. The relay has only a hash of each.",
            ),
            section("Create a token", _form(), id_="create", live=False),
        ),
    )


def _row(visit: Visit, one: TokenValue, now: float) -> list[Child]:
    return [
        [h("b", name_of(one.name)), " ", badge("This login") if _is_own(visit, one) else None],
        one.role,
        name_of(one.scope) if one.scope else "everything",
        moment(one.created_at),
        [moment(one.expires_at), " ", badge("Expired") if now >= one.expires_at else None],
        moment(one.last_used_at),
        h("a", "Revoke", href=f"{_PLACE}/{segment(one.id)}/revoke", class_="button quiet danger inline",
          aria_label=f"Revoke {one.name}"),
    ]  # fmt: skip


def _is_own(visit: Visit, one: TokenValue) -> bool:
    """Return whether the caller uses this token now."""
    return visit.caller.kind == "token" and visit.caller.id.rpartition(" ")[2] == one.id


def _form(entered: Entered = NOTHING_ENTERED) -> Element:
    chosen = entered.value("role", "viewer")
    # A list to choose from would cut off the texts on a narrow screen.
    roles = [
        h(
            "label",
            h("input", type="radio", name="role", value=role, checked=role == chosen),
            f"{role}: {meaning}",
        )
        for role, meaning in _ROLES.items()
    ]
    return post_form(
        _PLACE,
        field(
            "Name",
            "name",
            entered.value("name", ""),
            required=True,
            maxlength=64,
            hint="The program or person that uses the token.",
            error=entered.error("name"),
        ),
        h("fieldset", h("legend", "Role"), roles),
        field(
            "Scope",
            "scope",
            entered.value("scope", ""),
            maxlength=260,
            error=entered.error("scope"),
            hint="Only hybrid connections whose names begin with this, such as team/. Empty: the whole relay.",
        ),
        field(
            "Valid for (days)",
            "expiresInDays",
            entered.value("expiresInDays", "30"),
            type_="number",
            required=True,
            min="0.01",
            max=365,
            step="any",
            error=entered.error("expiresInDays"),
        ),
        button("Create", kind="primary"),
    )


async def _create(visit: Visit) -> View:
    """Show the token's text in the response to a POST, so that the browser keeps it neither in its history nor in a
    cache."""
    form = visit.form()
    body = {
        "name": form.get("name", ""),
        "role": form.get("role", ""),
        "scope": form.get("scope", "").strip(),
        "expiresInDays": form.get("expiresInDays", ""),
    }
    try:
        created, _ = await visit.perform("createToken", body=body)
    except RequestError as exc:
        refusal = refused(exc, form, body, _EXPLAINED)
        return refusal.view("Create a token", _form(refusal.entered), place=_PLACE, parents=((_PLACE, "Tokens"),))
    assert isinstance(created, CreatedToken)
    token = created.value
    return View(
        title="The token was created",
        place=_PLACE,
        parents=((_PLACE, "Tokens"),),
        is_live=False,
        content=(
            h(
                "section",
                h(
                    "p",
                    h("b", name_of(token.name)),
                    f" ({token.role}) is valid until ",
                    moment(token.expires_at),
                    ".",
                ),
                h("p", "This is its text. Save it now in a file that only its user can read: it is not shown again."),
                command(created.token, "The token"),
                h("p", h("a", "Done", href=_PLACE, class_="button primary")),
                class_="card",
            ),
        ),
    )


async def _confirm_revocation(visit: Visit) -> View:
    id_ = visit.param("token")
    page = await visit.get("listTokens", TokenPage)
    token = next((one for one in page.value if one.id == id_), None)
    if token is None:
        raise problem(Problem.NOT_FOUND, "there is no such token", remedy="it may already have been revoked")
    own = "You are logged in with this token: you will be logged out." if _is_own(visit, token) else None
    return confirmation(
        "Revoke this token?",
        post_form(f"{_PLACE}/{segment(id_)}/revoke", button("Revoke", kind="danger")),
        h(
            "dl",
            h("div", h("dt", "Name"), h("dd", name_of(token.name))),
            h("div", h("dt", "Role"), h("dd", token.role)),
            h("div", h("dt", "Scope"), h("dd", name_of(token.scope) if token.scope else "everything")),
            h("div", h("dt", "Last used"), h("dd", moment(token.last_used_at))),
            class_="facts",
        ),
        h(
            "p",
            "Programs that use it are refused immediately, and browsers that are logged in with it are logged out.",
        ),
        h("p", own, class_="note") if own else None,
        parents=((_PLACE, "Tokens"),),
    )


async def _revoke(visit: Visit) -> Response:
    await visit.perform("deleteToken", token=visit.param("token"))
    return redirect(done(_PLACE, "token-revoked"))


TOKEN_PAGES: tuple[Page, ...] = (
    Page(id="showTokens", method="GET", path=_PLACE, show=_show_all),
    Page(id="sendToken", method="POST", path=_PLACE, show=_create),
    Page(id="confirmTokenRevocation", method="GET", path=f"{_PLACE}/{{token}}/revoke", show=_confirm_revocation),
    Page(id="sendTokenRevocation", method="POST", path=f"{_PLACE}/{{token}}/revoke", show=_revoke),
)
