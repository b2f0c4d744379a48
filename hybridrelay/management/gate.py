"""Authenticates the caller of a request, and limits how many requests each caller may send.

A request is handled by these rules, in this order:

1. If a request has an Authorization header, this header identifies the caller. The relay's tokens and signatures are
   always verified, so that nobody can lock out a caller by failed attempts from the same address. After too many
   failed attempts from an address, further failures get 429, and credentials of other kinds are not passed to
   authenticators, because these may accept passwords that can be guessed.
2. Otherwise the connection identifies the caller, if it is a connection to the Unix socket or has a client
   certificate. If the CA of the certificate is no longer in use, the connection is closed.
3. Otherwise a cookie identifies the caller, who has logged in to the dashboard with this browser (`logins`).
   Because browsers send certificates and cookies without being asked, requests caused by pages of other origins
   are refused.
4. A caller that sends too many requests gets 429. So do requests without credentials, if there are too many from one
   address. Callers on the Unix socket are not limited, because they control the relay anyway.

The token is looked up in the store for each request, so a revoked or expired one is refused at once, and so are the
browsers that have logged in with it. What a request changes waits for other changes: then the token or key is looked
up again just before the change is made (`calls.Call.change_store`).
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn, TypeVar

import trio

from ..errors import StateError
from ..events.management import ManagementAuthenticationFailed
from ..http import Fields, Request, RequestError
from ..relay.edge.slots import address_group
from ..security import (
    Secret,
)
from .browsers import comes_from_elsewhere, is_of_own_page, login_cookies
from .callers import Caller
from .credentials import Identified, OwnCredentials, Refused
from .logins import Login, Logins, digest_of
from .managed import Managed
from .peers import CertificateRefusal, Peer
from .plugins import Authenticator, Credentials
from .problem_kinds import Problem
from .problems import problem, problem_of
from .rates import Buckets

__all__ = ["REFUSAL_SECONDS", "Gate", "unauthenticated"]

T = TypeVar("T")

#: Requests of one caller: the sustained rate per second, and the burst.
_CALLS_PER_SECOND, _CALLS_BURST = 20.0, 100
#: Failed attempts from one address: the sustained rate per minute, which is also the burst.
_FAILURES_PER_MINUTE = 5
#: How long the response to a refused request is delayed (seconds), so that a client that repeats its requests without
#: a pause cannot keep the relay busy.
REFUSAL_SECONDS = 0.25
#: The longest delay of a response with 429 (seconds).
_PAUSE_SECONDS = 1.0
#: How long an authenticator may take (seconds).
_AUTHENTICATOR_SECONDS = 5.0
#: Credentials are verified again if the body of a GET or HEAD took longer than this to arrive (seconds). With any
#: other method, they always are.
_STALE_SECONDS = 0.1
#: The longest Authorization header that is accepted (characters).
_MAX_CREDENTIALS = 8192
_EXPIRED = CertificateRefusal("the client certificate has expired", "use one that is valid")
_OTHER_CA = CertificateRefusal("the CA of the client certificate is no longer in use", "use one of the present CA")
_USUAL_REMEDY = "send the header 'Authorization: Bearer TOKEN'; 'hybridrelay tokens create' creates a token"
_SAFE = frozenset({"GET", "HEAD"})
_CHALLENGES: Fields = (
    ("WWW-Authenticate", 'Bearer realm="hybridrelay"'),
    ("WWW-Authenticate", "SharedAccessSignature"),
)


class Gate:
    """Authenticates requests and limits their rate; see the module's docstring.

    Args:
        managed: the relay.
        authenticators: the authenticators of installed packages, by name, for credentials of other kinds.
        logins: the browsers that have logged in; None means none yet.
    """

    def __init__(
        self,
        managed: Managed,
        authenticators: Sequence[tuple[str, Authenticator]] = (),
        logins: Logins | None = None,
    ) -> None:
        self._managed = managed
        self._authenticators = authenticators
        self._calls = Buckets(rate=_CALLS_PER_SECOND, burst=_CALLS_BURST)
        self._failures = Buckets(rate=_FAILURES_PER_MINUTE / 60, burst=_FAILURES_PER_MINUTE)
        self._own = OwnCredentials(managed)
        #: Two functions that write the time of each token's last use to the store: the first does so once a minute
        #: until cancelled, the second does so once, immediately.
        self.save_uses, self.save_uses_now = self._own.save_uses, self._own.save_uses_now
        #: The browsers that have logged in.
        self.logins = Logins() if logins is None else logins

    async def admit(self, request: Request) -> Caller:
        """Return the caller of the request, whose rate is not too high. `Request.peer` must be a `Peer`.

        Raises:
            RequestError: 401, 403 or 429; 503 if the store cannot be read, or an authenticator does not answer in
                time.
            Exception: what an authenticator raised.
        """
        caller = await self.identify(request)
        await self.limit(request, caller)
        return caller

    async def identify(self, request: Request) -> Caller:
        """Return the caller of the request, as `admit` does, however many requests the caller sends.

        Raises:
            RequestError: 401 or 403; 429 after too many failed attempts, or too many requests without credentials;
                503 if the store cannot be read, or an authenticator does not answer in time.
            Exception: what an authenticator raised.
        """
        assert isinstance(request.peer, Peer)
        peer, group = request.peer, address_group(request.peer.address)
        headers = request.headers.all("authorization")
        if headers:
            try:
                caller = await self._identify(headers, peer, group)
            except Refused as exc:
                await self._refuse(peer, group, str(exc), exc.answer)
            except StateError as exc:
                raise problem_of(exc, conditional=False) from exc
        elif peer.caller is not None and not self._has_expired(peer):
            caller = peer.caller
            await _check_site(request)
        elif (by_cookie_ := await self._by_cookie(request)) is not None:
            caller = by_cookie_
            await _check_site(request, by_cookie=True)
        elif not peer.is_trusted():
            # Not a failed attempt: the certificate was accepted when the connection began. Over a new connection, it
            # is refused before the first request.
            await trio.sleep(REFUSAL_SECONDS)
            raise unauthenticated(_OTHER_CA.detail, f"{_OTHER_CA.remedy}; or {_USUAL_REMEDY}", close=True)
        elif peer.refusal is not None or peer.caller is not None:
            refusal = peer.refusal or _EXPIRED
            answer = unauthenticated(refusal.detail, f"{refusal.remedy}; or {_USUAL_REMEDY}")
            await self._refuse(peer, group, refusal.detail, answer)
        else:
            await self._check_rate(
                self._calls.take(("unknown", group), trio.current_time()), "too many requests without credentials"
            )
            await trio.sleep(REFUSAL_SECONDS)
            raise unauthenticated("the request has no credentials")
        peer.on_identified(caller)
        return caller

    async def limit(self, request: Request, caller: Caller) -> None:
        """Count a request of a caller (from `identify`).

        Raises:
            RequestError: 429, because the caller sends too many.
        """
        assert isinstance(request.peer, Peer)
        if caller is not request.peer.caller or request.peer.address:
            await self._check_rate(self._calls.take(caller.limit_group, trio.current_time()), "too many requests")

    async def receive_body(self, request: Request, caller: Caller) -> bytes:
        """Count a request of a caller (from `identify`), and return its body, which may take seconds to arrive.

        Raises:
            RequestError: the same as in `limit`; the body cannot be read; 401, because the credentials have become
                invalid in the meantime; or 503, because the store cannot be read.
        """
        await self.limit(request, caller)
        began = trio.current_time()
        body = await request.body.read()
        if request.method not in _SAFE or trio.current_time() - began > _STALE_SECONDS:
            await self._confirm(request, caller)
        return body

    async def _confirm(self, request: Request, caller: Caller) -> None:
        """Verify the credentials again: a token may have been revoked, or a key replaced."""
        assert isinstance(request.peer, Peer)
        try:
            if headers := request.headers.all("authorization"):
                scheme, _, value = headers[0].partition(" ")
                found = await self._own.verify(scheme.lower(), value.strip())
                # An authenticator is asked once for each request.
                is_valid = found is None or found.caller == caller
            elif caller is request.peer.caller:
                is_valid = not self._has_expired(request.peer)
            else:
                is_valid = await self._by_cookie(request) == caller
        except Refused:
            is_valid = False
        except StateError as exc:
            raise problem_of(exc, conditional=False) from exc
        if not is_valid:
            raise unauthenticated("the credentials became invalid while the body of the request was arriving")

    def _has_expired(self, peer: Peer) -> bool:
        is_over = peer.expires_at is not None and self._managed.clock() >= peer.expires_at
        return is_over or not peer.is_trusted()

    async def _refuse(self, peer: Peer, group: str, detail: str, answer: RequestError | None = None) -> NoReturn:
        await self._check_failures(group)
        self._failures.charge(group, trio.current_time())
        self._managed.events.publish(ManagementAuthenticationFailed(peer=peer.address or "local", detail=detail))
        await trio.sleep(REFUSAL_SECONDS)
        raise answer or unauthenticated("the credentials are not valid")

    async def _check_failures(self, group: str) -> None:
        await self._check_rate(self._failures.wait(group, trio.current_time()), "too many failed attempts")

    async def _check_rate(self, wait: float, detail: str) -> None:
        if wait > 0:
            await trio.sleep(min(wait, _PAUSE_SECONDS))
            retry = (("Retry-After", str(math.ceil(wait))),)
            raise problem(Problem.RATE, detail, remedy="send the request again later", headers=retry)

    async def _identify(self, headers: Sequence[str], peer: Peer, group: str) -> Caller:
        """Return the caller that an Authorization header identifies. Raises Refused, RequestError."""
        if len(headers) > 1 or len(headers[0]) > _MAX_CREDENTIALS:
            raise Refused("there is more than one Authorization header, or it is too long")
        scheme, _, value = headers[0].partition(" ")
        credentials = Credentials(scheme.lower(), value.strip(), peer.address)
        if (own := await self._own.verify(credentials.scheme, credentials.value)) is not None:
            return own.caller
        if self._authenticators:
            await self._check_failures(group)
        for name, authenticator in self._authenticators:
            try:
                caller = await self._by_plugin(name, authenticator, credentials)
            except Exception:
                self._failures.charge(group, trio.current_time())  # no other limit would apply to such requests
                raise
            if caller is not None:
                return caller
        raise Refused("the Authorization header is of an unknown kind, or was not accepted")

    async def _by_cookie(self, request: Request) -> Caller | None:
        """Return the caller who has logged in with this browser, or None. Raises RequestError.

        An unknown login does not count as a failed attempt: it may have expired, and its text cannot be guessed.
        """
        for value in login_cookies(request):
            digest = digest_of(value)
            login = self.logins.find(digest, self._managed.clock())
            if login is not None:
                found = await self._own.look_up(login.credential)
                if found is not None:
                    return found.caller
                self.logins.end(digest)
        return None

    async def verify_login(self, request: Request, credentials: Secret) -> Identified:
        """Return who wants to log in with a browser, and has entered a management token or a signature.

        Raises:
            RequestError: the same as in `identify`.
        """
        scheme, _, value = credentials.reveal().strip().partition(" ")
        if not value:
            scheme, value = "bearer", scheme

        async def verify() -> Identified:
            if (
                len(value) > _MAX_CREDENTIALS
                or (found := await self._own.verify(scheme.lower(), value.strip())) is None
            ):
                raise Refused("the text is neither a token nor a signature of this relay")
            return found

        return await self._verify_login(request, verify)

    async def verify_login_by_code(self, request: Request, code: Secret) -> Identified:
        """Like `verify_login`, for someone who has a one-time code (`Logins.add_code`)."""

        async def verify() -> Identified:
            credential = self.logins.use_code(digest_of(code.reveal()), self._managed.clock())
            found = None if credential is None else await self._own.look_up(credential)
            if found is None:
                raise Refused("the code for logging in is unknown, has already been used, or has expired")
            return found

        return await self._verify_login(request, verify)

    async def _verify_login(self, request: Request, verify: Callable[[], Awaitable[Identified]]) -> Identified:
        assert isinstance(request.peer, Peer)
        peer, group = request.peer, address_group(request.peer.address)
        await _check_site(request, by_cookie=True)
        try:
            found = await verify()
        except Refused as exc:
            await self._refuse(peer, group, str(exc), exc.answer)
        except StateError as exc:
            raise problem_of(exc, conditional=False) from exc
        peer.on_identified(found.caller)
        return found

    async def log_in(self, request: Request, found: Identified) -> tuple[Secret, Login]:
        """Count the request, and begin a login.

        Args:
            request: the request.
            found: what `verify_login` has returned for it.

        Returns:
            The text of the login's cookie, and the login.

        Raises:
            RequestError: 429, because the caller sends too many requests.
        """
        await self._check_rate(self._calls.take(found.caller.limit_group, trio.current_time()), "too many requests")
        # Another login of this browser, if there is one, is over: its cookie is replaced.
        self.log_out(request)
        text = secrets.token_urlsafe(32)
        login = self.logins.begin(
            digest_of(text), found.credential, now=self._managed.clock(), valid_until=found.expires_at
        )
        return Secret(text), login

    def log_out(self, request: Request) -> None:
        """End the logins of the browser that has sent a request."""
        for value in login_cookies(request):
            self.logins.end(digest_of(value))

    async def admit_anybody(self, request: Request) -> None:
        """Limit how often an address requests what needs no credentials: the pages for logging in, and their files.

        Raises:
            RequestError: 429.
        """
        assert isinstance(request.peer, Peer)
        if request.peer.address:
            key = "anybody", address_group(request.peer.address)
            await self._check_rate(self._calls.take(key, trio.current_time()), "too many requests")

    async def _by_plugin(self, name: str, authenticator: Authenticator, credentials: Credentials) -> Caller | None:
        with trio.move_on_after(_AUTHENTICATOR_SECONDS):
            caller = await authenticator.authenticate(credentials)
            return None if caller is None else Caller(name, caller.id, caller.role, caller.scope)
        raise problem(Problem.UNAVAILABLE, f"{name} did not answer in time", remedy="send the request again later")


async def _check_site(request: Request, *, by_cookie: bool = False) -> None:
    """Refuse requests caused by pages of other origins. To these, too, browsers add the certificate or the cookie.

    Programs other than browsers send no header that says where a request comes from, and have no cookie.
    """
    needs_own_page = by_cookie and request.method not in _SAFE
    if comes_from_elsewhere(request) or (needs_own_page and not is_of_own_page(request)):
        await trio.sleep(REFUSAL_SECONDS)
        raise problem(Problem.FORBIDDEN, "a page of another origin has caused the request")


def unauthenticated(detail: str, remedy: str = _USUAL_REMEDY, *, close: bool = False) -> RequestError:
    """Make the exception that answers a request without valid credentials (401).

    Args:
        detail: what is wrong with the credentials; a clause without a full stop.
        remedy: what the caller can do.
        close: whether to close the connection, because its client certificate will not be accepted again.
    """
    return problem(Problem.UNAUTHENTICATED, detail, remedy=remedy, headers=_CHALLENGES, close=close)
