"""A row of the table of pages, and the handling of requests for pages."""

from __future__ import annotations

import urllib.parse
from collections.abc import Awaitable, Callable, Iterable

import attrs
import trio

from ..._value import Value
from ...http import Failure, Handler, Reply, Request, RequestError, Response, Route
from ...security import ManagementRole
from ..auditing import Effect, audit_event
from ..callers import Caller
from ..gate import Gate
from ..managed import Managed
from ..parameters import valid_params
from ..problem_kinds import Problem
from ..request_ids import REQUEST_ID, new_request_id, with_request_id
from .failures import failure_page
from .layout import View, page_response, redirect
from .visit import Visit

__all__ = ["Page", "PublicPage", "routes_of"]


@attrs.frozen(kw_only=True)
class Page(Value):
    """A page that only identified callers may see."""

    #: The unique id. The audit log contains it if a request was refused before it called an operation.
    id: str
    method: str
    path: str
    #: The role that its form needs. Callers with a lower one do not see the form, and could not send it, either.
    role: ManagementRole = ManagementRole.VIEWER
    #: Makes the page, or handles its form.
    show: Callable[[Visit], Awaitable[View | Response]]


@attrs.frozen(kw_only=True)
class PublicPage(Value):
    """A page or file that needs no credentials."""

    id: str
    method: str
    path: str
    #: Whether requests are recorded in the audit log.
    is_audited: bool = False
    #: Returns the response, and the caller if the request has identified one.
    serve: Callable[[Managed, Gate, Request], Awaitable[tuple[Response, Caller | None]]]


def routes_of(pages: Iterable[Page | PublicPage], managed: Managed, gate: Gate) -> Iterable[Route[Handler]]:
    """Make the routes of pages."""
    for page in pages:
        if isinstance(page, PublicPage):
            yield Route(page.method, page.path, _public_handler(page, managed, gate))
        else:
            yield Route(page.method, page.path, _handler(page, managed, gate))


def _handler(page: Page, managed: Managed, gate: Gate) -> Handler:
    async def handle(request: Request) -> Reply:
        visit: Visit | None = None
        caller: Caller | None = None
        #: 0 means that there is no response, because the client has disconnected or the relay is stopping.
        status, request_id = 0, new_request_id()
        try:
            caller = await gate.identify(request)
            body = await gate.receive_body(request, caller)
            visit = Visit(managed, caller, request, body)
            visit.require(page.role)
            async with managed.turns.take(caller.limit_group, has_scope=not caller.scope.is_everything):
                shown = await page.show(visit)
                await trio.lowlevel.checkpoint()  # writing a large page takes milliseconds
                response = page_response(visit, shown) if isinstance(shown, View) else shown
            status = response.status
            return response
        except RequestError as exc:
            status = exc.failure.status
            if status == Problem.UNAUTHENTICATED.status and page.method == "GET":
                return _to_log_in(request)
            return failure_page(_with_id(exc.failure, request_id), visit)
        except Exception:
            status = 500
            raise
        finally:
            if page.method != "GET" and (visit is None or not visit.has_called):
                params = valid_params(request.params, request.param)
                managed.events.publish(audit_event(page.id, params, request, caller, status, request_id, Effect()))

    return handle


def _public_handler(page: PublicPage, managed: Managed, gate: Gate) -> Handler:
    async def handle(request: Request) -> Reply:
        caller: Caller | None = None
        status, request_id = 0, new_request_id()
        try:
            await gate.admit_anybody(request)
            response, caller = await page.serve(managed, gate, request)
            status = response.status
            return attrs.evolve(response, headers=(*response.headers, (REQUEST_ID, request_id)))
        except RequestError as exc:
            status = exc.failure.status
            return failure_page(_with_id(exc.failure, request_id), None)
        except Exception:
            status = 500
            raise
        finally:
            if page.is_audited:
                managed.events.publish(audit_event(page.id, {}, request, caller, status, request_id, Effect()))

    return handle


def _with_id(failure: Failure, request_id: str) -> Failure:
    return failure if "requestId" in failure.members else with_request_id(failure, request_id)


def _to_log_in(request: Request) -> Response:
    """Redirect to the page for logging in, which redirects back afterwards."""
    target = request.path if request.query is None else f"{request.path}?{request.query}"
    if target == "/" or len(target) > 1000:
        return redirect("/login")
    return redirect(f"/login?next={urllib.parse.quote(target, safe='')}")
