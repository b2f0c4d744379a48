"""The pages that need no credentials: logging in and out, and the files that pages need."""

from __future__ import annotations

import urllib.parse

from ...http import Failure, Request, RequestError, Response
from ...security import ManagementRole, Secret
from ..browsers import forgotten_cookies, login_cookie
from ..callers import Caller
from ..gate import Gate
from ..managed import Managed
from ..peers import Peer
from .assets import asset_response
from .html import Child, h
from .layout import plain_page, redirect
from .messages import done, message_of
from .page import PublicPage
from .parts import command, field
from .visit import Visit

__all__ = ["PUBLIC_PAGES"]

_MAX_NEXT = 2000


def _next_untrusted(text: str) -> str:
    """Return the path to show after logging in: `text`, or that of the dashboard if `text` is not a path of
    this server."""
    is_own = text.startswith("/") and not text.startswith(("//", "/\\", "/login", "/logout"))
    is_plain = text.isascii() and text.isprintable() and "\\" not in text and " " not in text
    return text if is_own and is_plain and len(text) <= _MAX_NEXT else "/"


def _anonymous(managed: Managed, request: Request, body: bytes = b"") -> Visit:
    """Make a visit for reading the query and the form of a request whose caller is not known."""
    return Visit(managed, Caller("unknown", "", ManagementRole.VIEWER), request, body)


async def _show_log_in(managed: Managed, gate: Gate, request: Request) -> tuple[Response, Caller | None]:
    visit = _anonymous(managed, request)
    code = visit.asked("code")
    if code:
        return _code_page(code), None
    message = message_of(visit.asked("done"))
    return _log_in_page(visit.asked("next", _MAX_NEXT), _state(visit), message=message), None


def _state(visit: Visit) -> str:
    return visit.state_argument if visit.is_on_relays_machine else "DIR"


def _code_page(code: str) -> Response:
    return plain_page(
        "Open the dashboard",
        h(
            "form",
            h("p", "You can log in once with the link that you have followed."),
            h("input", type="hidden", name="code", value=code),
            h("button", "Log in", type="submit", class_="button primary", autofocus=True),
            method="post",
            action="/login",
            class_="card",
        ),
    )


def _log_in_page(next_: str, state: str, *, message: str | None = None, failure: Failure | None = None) -> Response:
    """Make the page for logging in.

    Args:
        next_: the path to show after logging in.
        state: the relay's state directory; ``DIR`` for browsers on other machines, which do not need to know it.
        message: what has happened before.
        failure: why logging in has failed.
    """
    said: Child = None
    if failure is not None:
        text = "This is not a valid token or signature of this relay." if failure.status == 401 else failure.detail
        remedy = failure.members.get("remedy") if failure.status != 401 else None
        said = h("p", text, f" What to do: {remedy}." if remedy else None, class_="message bad", role="alert")
    elif message is not None:
        said = h("p", message, class_="message", role="status")
    return plain_page(
        "Log in to this relay",
        said,
        h(
            "form",
            field(
                "Management token",
                "token",
                type_="password",
                required=True,
                autofocus=True,
                autocomplete="off",
                spellcheck="false",
                maxlength=8192,
                hint="It begins with hrm_. A SharedAccessSignature of a key with the right Manage is also accepted.",
            ),
            h("input", type="hidden", name="next", value=_next_untrusted(next_)),
            h("button", "Log in", type="submit", class_="button primary"),
            method="post",
            action="/login",
            class_="card",
        ),
        h(
            "section",
            h("h2", "No token yet?"),
            h("p", "Create one on the relay's machine, as root or the user that runs the relay:"),
            command(
                f"hybridrelay tokens create dashboard --role admin --out dashboard.token --state {state}",
                "command that creates a token",
            ),
            h("p", "DIR is the relay's state directory.", class_="note") if state == "DIR" else None,
            h(
                "p",
                "You stay logged in for at most eight hours, and no longer than the token is valid.",
                class_="note",
            ),
            class_="card",
        ),
        status=200 if failure is None else failure.status,
        headers=() if failure is None else failure.headers,
    )


async def _log_in(managed: Managed, gate: Gate, request: Request) -> tuple[Response, Caller | None]:
    visit = _anonymous(managed, request, await request.body.read())
    form = visit.form()
    assert isinstance(request.peer, Peer)
    next_ = form.get("next", "")
    caller: Caller | None = None  # also known to the audit log if the login is refused from here on
    try:
        if form.get("code"):
            found = await gate.verify_login_by_code(request, Secret(form["code"]))
        else:
            found = await gate.verify_login(request, Secret(form.get("token", "")))
        caller = found.caller
        text, login = await gate.log_in(request, found)
    except RequestError as exc:
        return _log_in_page(next_, _state(visit), failure=exc.failure), caller
    seconds = login.expires_at - login.began_at
    cookie = login_cookie(request, text.reveal(), is_encrypted=request.peer.is_encrypted, seconds=seconds)
    return redirect(_next_untrusted(next_), (cookie,)), caller


async def _log_out(managed: Managed, gate: Gate, request: Request) -> tuple[Response, Caller | None]:
    # `admit` refuses requests caused by pages of other origins. If nobody is logged in, there is nothing to end.
    try:
        caller: Caller | None = await gate.admit(request)
    except RequestError as exc:
        if exc.failure.status != 401:
            raise
        caller = None
    gate.log_out(request)
    return redirect(done("/login", "logged-out"), tuple(forgotten_cookies(request))), caller


async def _asset(managed: Managed, gate: Gate, request: Request) -> tuple[Response, Caller | None]:
    response = asset_response(request, urllib.parse.unquote(request.params["file"]))
    if response is None:
        raise RequestError(Failure(404, "there is no such file"))
    return response, None


#: The pages that need no credentials.
PUBLIC_PAGES: tuple[PublicPage, ...] = (
    PublicPage(id="showLogIn", method="GET", path="/login", serve=_show_log_in),
    PublicPage(id="logIn", method="POST", path="/login", serve=_log_in, is_audited=True),
    PublicPage(id="logOut", method="POST", path="/logout", serve=_log_out, is_audited=True),
    PublicPage(id="getFile", method="GET", path="/assets/{file}", serve=_asset),
)
