"""Authenticates the caller of a request, and limits how many requests each caller may send.

In this order:

1. If a request has an Authorization header, this header identifies the caller. The relay's tokens and signatures are
   always verified, so that nobody can lock out a caller by failed attempts from the same address. After too many
   failed attempts from an address, further failures get 429, and credentials of other kinds are not passed to
   authenticators, because these may accept passwords that can be guessed.
2. Otherwise the connection identifies the caller, if it is a connection to the Unix socket or has a client
   certificate.
3. Otherwise a cookie identifies the caller, who has logged in to the dashboard with this browser (`sessions`).
   Because browsers send certificates and cookies without being asked, requests caused by pages of other sites are
   refused.
4. A caller that sends too many requests gets 429. So do requests without credentials, if there are too many from one
   address. Callers on the Unix socket are not limited, because they control the relay anyway.

The token is looked up in the store for each request, so a revoked or expired one is refused at once, and so are the
browsers that have logged in with it.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn, TypeVar

import attrs
import trio

from ..errors import AuthorizationError, ConfigurationError, StateError
from ..events import ManagementAuthenticationFailed, ManagementTokenUseNotSaved
from ..http import Fields, Request, RequestError
from ..protocol.reasons import Reason
from ..relay.edge.slots import address_group
from ..relay.store.store import NotFound
from ..security import (
    ManagementRole,
    ManagementToken,
    Right,
    Secret,
    check_connection_name,
    parse_management_token_untrusted,
    parse_token_untrusted,
    verify_token,
)
from .browsers import comes_from_elsewhere, is_of_own_page, session_cookies
from .callers import Caller, Scope
from .managed import Managed
from .peers import Peer
from .plugins import Authenticator, Credentials
from .problems import Problem, problem, problem_of
from .rates import Buckets
from .sessions import KeyCredential, Session, Sessions, TokenCredential, digest_of

__all__ = ["REFUSAL_SECONDS", "Gate"]

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
#: How often the times at which tokens were used are written to the store (seconds).
_SAVE_SECONDS = 60.0
#: The longest Authorization header that is accepted (characters).
_MAX_CREDENTIALS = 8192
_SAFE = frozenset({"GET", "HEAD"})
_CHALLENGES: Fields = (
    ("WWW-Authenticate", 'Bearer realm="hybridrelay"'),
    ("WWW-Authenticate", "SharedAccessSignature"),
)


class _Refused(Exception):
    """The credentials are not valid, or do not suffice. The text is for the log, and contains no secret."""

    def __init__(self, detail: str, answer: RequestError | None = None) -> None:
        super().__init__(detail)
        #: The response to the client; None: 401.
        self.answer = answer


@attrs.frozen
class _Identified:
    """Who has credentials of this relay."""

    caller: Caller
    credential: TokenCredential | KeyCredential
    #: When the credentials expire (seconds since 1970).
    expires_at: float


def _caller_by_key(credential: KeyCredential) -> Caller:
    id_ = f"{credential.connection} {credential.rule} {credential.slot}"
    return Caller("sas", id_, ManagementRole.ADMIN, Scope(only=credential.connection))


class Gate:
    """Authenticates requests and limits their rate; see the module.

    Args:
        managed: the relay.
        authenticators: the authenticators of installed packages, by name, for credentials of other kinds.
    """

    def __init__(self, managed: Managed, authenticators: Sequence[tuple[str, Authenticator]] = ()) -> None:
        self._managed = managed
        self._authenticators = authenticators
        self._calls = Buckets(rate=_CALLS_PER_SECOND, burst=_CALLS_BURST)
        self._failures = Buckets(rate=_FAILURES_PER_MINUTE / 60, burst=_FAILURES_PER_MINUTE)
        #: When tokens were last used, by their ids, for uses that have not been written to the store yet.
        self._uses: dict[str, float] = {}
        #: Browsers that have logged in.
        self.sessions = Sessions()

    async def admit(self, request: Request) -> Caller:
        """Return the caller of the request. `Request.peer` must be a `Peer`.

        Raises:
            RequestError: 401, 403 or 429; 503 if the store cannot be read.
        """
        assert isinstance(request.peer, Peer)
        peer, group = request.peer, address_group(request.peer.address)
        headers = request.headers.all("authorization")
        if headers:
            try:
                caller = await self._identify(headers, peer, group)
            except _Refused as exc:
                await self._refuse(peer, group, str(exc), exc.answer)
            except StateError as exc:
                raise problem_of(exc, conditional=False) from exc
        elif peer.caller is not None and not self._has_expired(peer):
            caller = peer.caller
            await _check_site(request)
        elif (by_session := await self._by_session(request)) is not None:
            caller = by_session
            await _check_site(request, by_cookie=True)
        elif peer.refusal or peer.caller is not None:
            await self._refuse(peer, group, peer.refusal or "the client certificate has expired")
        else:
            await self._check_rate(
                self._calls.take(("unknown", group), trio.current_time()), "too many requests without credentials"
            )
            await trio.sleep(REFUSAL_SECONDS)
            raise _unauthenticated("the request has no credentials")
        peer.on_identified(caller)
        if caller is not peer.caller or peer.address:
            await self._check_rate(
                self._calls.take((caller.kind, caller.id), trio.current_time()), "too many requests"
            )
        return caller

    async def save_uses(self) -> None:
        """Write the times of the last uses of tokens to the store once a minute, until cancelled."""
        published = ""
        while True:
            await trio.sleep(_SAVE_SECONDS)
            try:
                await self.save_uses_now()
            except ConfigurationError as exc:
                if str(exc) != published:
                    self._managed.events.publish(ManagementTokenUseNotSaved(detail=str(exc), remedy=exc.remedy or ""))
                published = str(exc)
            else:
                published = ""

    async def save_uses_now(self) -> None:
        """Write the times of the last uses of tokens to the store.

        Raises:
            ConfigurationError: the store cannot be changed. The next call writes these times.
        """
        uses, self._uses = self._uses, {}
        if uses:
            try:
                await self._managed.change_store(lambda store: store.set_last_use_of_tokens(uses))
            except BaseException:
                self._uses = uses | self._uses
                raise

    def _has_expired(self, peer: Peer) -> bool:
        return peer.expires_at is not None and self._managed.clock() >= peer.expires_at

    async def _refuse(self, peer: Peer, group: str, detail: str, answer: RequestError | None = None) -> NoReturn:
        await self._check_failures(group)
        self._failures.charge(group, trio.current_time())
        self._managed.events.publish(ManagementAuthenticationFailed(peer=peer.address or "local", detail=detail))
        await trio.sleep(REFUSAL_SECONDS)
        raise answer or _unauthenticated("the credentials are not valid")

    async def _check_failures(self, group: str) -> None:
        await self._check_rate(self._failures.wait(group, trio.current_time()), "too many failed attempts")

    async def _check_rate(self, wait: float, detail: str) -> None:
        if wait > 0:
            await trio.sleep(min(wait, _PAUSE_SECONDS))
            retry = (("Retry-After", str(math.ceil(wait))),)
            raise problem(Problem.RATE, detail, remedy="send the request again later", headers=retry)

    async def _identify(self, headers: Sequence[str], peer: Peer, group: str) -> Caller:
        """Raises _Refused, RequestError."""
        if len(headers) > 1 or len(headers[0]) > _MAX_CREDENTIALS:
            raise _Refused("there is more than one Authorization header, or it is too long")
        scheme, _, value = headers[0].partition(" ")
        credentials = Credentials(scheme.lower(), value.strip(), peer.address)
        if (own := await self._verify(credentials.scheme, credentials.value)) is not None:
            return own.caller
        if self._authenticators:
            await self._check_failures(group)
        for name, authenticator in self._authenticators:
            try:
                caller = await self._by_plugin(name, authenticator, credentials)
            except Exception:
                self._failures.charge(group, trio.current_time())  # otherwise, such requests were not limited at all
                raise
            if caller is not None:
                return caller
        raise _Refused("the Authorization header is of an unknown kind, or was not accepted")

    async def _verify(self, scheme: str, value: str) -> _Identified | None:
        """Verify credentials of this relay; None for those of another kind. Raises _Refused."""
        if scheme == "sharedaccesssignature":
            return await self._by_signature(f"SharedAccessSignature {value}")
        if scheme == "bearer":
            id_ = parse_management_token_untrusted(value)
            if id_ is not None:
                return await self._by_token(id_, value)
        return None

    async def _by_token(self, id_: str, text: str) -> _Identified:
        token = await self._managed.read_store(lambda store: store.token(id_))
        if token is None or not token.matches(text):
            raise _Refused("the token is unknown, or was revoked")
        if self._managed.clock() >= token.expires_at:
            raise _Refused(f"the token {token.name} ({token.id}) has expired")
        return self._identified_by_token(token)

    def _identified_by_token(self, token: ManagementToken) -> _Identified:
        self._uses[token.id] = self._managed.clock()
        caller = Caller("token", f"{token.name} {token.id}", token.role, Scope(token.scope))
        return _Identified(caller, TokenCredential(token.id), token.expires_at)

    async def _by_signature(self, text: str) -> _Identified:
        try:
            token = parse_token_untrusted(text)
            name = check_connection_name("/".join(token.path))
            connection = await self._managed.read_store(lambda store: store.get(name))
            verified = verify_token(
                token,
                right=Right.MANAGE,
                hosts=connection.hosts,
                entity=name,
                entity_rules=connection.rules,
                now=self._managed.clock(),
            )
        except AuthorizationError as exc:
            if exc.reason is Reason.RIGHT_MISSING:
                detail = "the key's rule does not have the right Manage"
                remedy = "use a key of a rule with Manage, or a token of the relay"
                raise _Refused(detail, problem(Problem.FORBIDDEN, detail, remedy=remedy)) from None
            raise _Refused(str(exc)) from None
        except (NotFound, ValueError):
            raise _Refused("the signature is not for a hybrid connection of this relay") from None
        generation = connection.generations.get((verified.rule_name, verified.slot), 0)
        credential = KeyCredential(name, verified.rule_name, verified.slot, generation)
        return _Identified(_caller_by_key(credential), credential, verified.expires_at)

    async def _by_session(self, request: Request) -> Caller | None:
        """Return the caller who has logged in with this browser, or None. Raises RequestError.

        An unknown session does not count as a failed attempt: it may have expired, and its text cannot be guessed.
        """
        for value in session_cookies(request):
            digest = digest_of(value)
            session = self.sessions.find(digest, self._managed.clock())
            if session is not None:
                found = await self._look_up(session.credential)
                if found is not None:
                    return found.caller
                self.sessions.end(digest)
        return None

    async def _look_up(self, credential: TokenCredential | KeyCredential) -> _Identified | None:
        """Return the present caller for a credential that was verified earlier; None if it is no longer valid."""
        try:
            if isinstance(credential, TokenCredential):
                id_ = credential.id
                token = await self._managed.read_store(lambda store: store.token(id_))
                is_valid = token is not None and self._managed.clock() < token.expires_at
                return self._identified_by_token(token) if token is not None and is_valid else None
            name = credential.connection
            connection = await self._managed.read_store(lambda store: store.get(name))
        except NotFound:
            return None
        except StateError as exc:
            raise problem_of(exc, conditional=False) from exc
        rule = connection.rule(credential.rule)
        generation = connection.generations.get((credential.rule, credential.slot), 0)
        if rule is None or Right.MANAGE not in rule.rights or generation != credential.generation:
            return None
        return _Identified(_caller_by_key(credential), credential, math.inf)

    async def log_in(self, request: Request, credentials: Secret) -> tuple[Caller, Secret, Session]:
        """Begin a session of a browser, for someone who has entered a management token or a signature.

        Returns:
            The caller, the text for the session's cookie, and the session.

        Raises:
            RequestError: the same as in `admit`.
        """
        scheme, _, value = credentials.reveal().strip().partition(" ")
        if not value:
            scheme, value = "bearer", scheme

        async def verify() -> _Identified:
            if len(value) > _MAX_CREDENTIALS or (found := await self._verify(scheme.lower(), value.strip())) is None:
                raise _Refused("the text is neither a token nor a signature of this relay")
            return found

        return await self._log_in(request, verify)

    async def log_in_by_code(self, request: Request, code: Secret) -> tuple[Caller, Secret, Session]:
        """The same, by a one-time code (`Sessions.add_code`)."""

        async def verify() -> _Identified:
            credential = self.sessions.use_code(digest_of(code.reveal()), self._managed.clock())
            found = None if credential is None else await self._look_up(credential)
            if found is None:
                raise _Refused("the code for logging in is unknown, was used before, or has expired")
            return found

        return await self._log_in(request, verify)

    async def _log_in(
        self, request: Request, verify: Callable[[], Awaitable[_Identified]]
    ) -> tuple[Caller, Secret, Session]:
        assert isinstance(request.peer, Peer)
        peer, group = request.peer, address_group(request.peer.address)
        await _check_site(request, by_cookie=True)
        try:
            found = await verify()
        except _Refused as exc:
            await self._refuse(peer, group, str(exc), exc.answer)
        except StateError as exc:
            raise problem_of(exc, conditional=False) from exc
        caller = found.caller
        peer.on_identified(caller)
        await self._check_rate(self._calls.take((caller.kind, caller.id), trio.current_time()), "too many requests")
        # Another session of this browser, if there is one, is over: its cookie is replaced.
        self.log_out(request)
        text = secrets.token_urlsafe(32)
        session = self.sessions.begin(
            digest_of(text), found.credential, now=self._managed.clock(), valid_until=found.expires_at
        )
        return caller, Secret(text), session

    def log_out(self, request: Request) -> None:
        """End the sessions of the browser that has sent a request."""
        for value in session_cookies(request):
            self.sessions.end(digest_of(value))

    async def admit_anybody(self, request: Request) -> None:
        """Limit how often an address asks for what needs no credentials: the pages for logging in, and their files.

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
    """Refuse requests caused by pages of other web sites, to which the browser adds the certificate or the cookie.

    Programs other than browsers send no header that says where a request comes from, and have no cookie.
    """
    needs_own_page = by_cookie and request.method not in _SAFE
    if comes_from_elsewhere(request) or (needs_own_page and not is_of_own_page(request)):
        await trio.sleep(REFUSAL_SECONDS)
        raise problem(Problem.FORBIDDEN, "the request comes from another web site")


def _unauthenticated(detail: str) -> RequestError:
    remedy = "send the header 'Authorization: Bearer TOKEN'; 'hybridrelay tokens create' creates a token"
    return problem(Problem.UNAUTHENTICATED, detail, remedy=remedy, headers=_CHALLENGES)
