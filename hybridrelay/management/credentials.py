"""Verifies credentials of this relay: management tokens, and signatures by keys with the right Manage."""

from __future__ import annotations

import math

import attrs
import trio

from ..errors import AuthorizationError, ConfigurationError, StateError
from ..events.management import ManagementTokenUseNotSaved
from ..http import RequestError
from ..protocol.reasons import Reason
from ..relay.store.store import NotFound
from ..security import (
    ManagementRole,
    ManagementToken,
    Right,
    check_connection_name,
    parse_management_token_untrusted,
    parse_token_untrusted,
    verify_token,
)
from .callers import Caller, Scope, tenant_of
from .logins import KeyCredential, TokenCredential
from .managed import Managed
from .problem_kinds import Problem
from .problems import problem, problem_of

__all__ = ["Identified", "OwnCredentials", "Refused"]

#: How often the times at which tokens were used are written to the store (seconds).
_SAVE_SECONDS = 60.0


class Refused(Exception):
    """The credentials are invalid, or do not suffice. The text is for the log, and contains no secret."""

    def __init__(self, detail: str, answer: RequestError | None = None) -> None:
        super().__init__(detail)
        #: The response to the client; None means 401.
        self.answer = answer


@attrs.frozen
class Identified:
    """The caller to whom credentials of this relay belong."""

    caller: Caller
    credential: TokenCredential | KeyCredential
    #: When the credentials expire (seconds since 1970).
    expires_at: float


def _caller_by_key(credential: KeyCredential, scope: str) -> Caller:
    """Return who has a key. `scope`: see `tenant_of`."""
    id_, name = f"{credential.connection} {credential.rule} {credential.slot}", credential.connection
    return Caller("sas", id_, ManagementRole.ADMIN, Scope(only=name), tenant_of(name, scope))


class OwnCredentials:
    """Verifies credentials, and notes when tokens were used.

    Args:
        managed: the relay.
    """

    def __init__(self, managed: Managed) -> None:
        self._managed = managed
        #: When tokens were last used, by their ids, for uses that have not been written to the store yet.
        self._uses: dict[str, float] = {}

    async def verify(self, scheme: str, value: str) -> Identified | None:
        """Verify credentials of this relay. Returns None if they are of another kind. Raises Refused."""
        if scheme == "sharedaccesssignature":
            return await self._by_signature(f"SharedAccessSignature {value}")
        if scheme == "bearer":
            id_ = parse_management_token_untrusted(value)
            if id_ is not None:
                return await self._by_token(id_, value)
        return None

    async def _by_token(self, id_: str, text: str) -> Identified:
        token = await self._managed.read_store(lambda store: store.token(id_))
        if token is None or not token.matches(text):
            raise Refused("the token is unknown, or was revoked")
        if self._managed.clock() >= token.expires_at:
            raise Refused(f"the token {token.name} ({token.id}) has expired")
        return self._identified_by_token(token)

    def _identified_by_token(self, token: ManagementToken) -> Identified:
        self._uses[token.id] = self._managed.clock()
        caller = Caller("token", f"{token.name} {token.id}", token.role, Scope(token.scope))
        return Identified(caller, TokenCredential(token.id), token.expires_at)

    async def _by_signature(self, text: str) -> Identified:
        try:
            token = parse_token_untrusted(text)
            name = check_connection_name("/".join(token.path))
            connection, scope = await self._managed.read_store(lambda store: (store.get(name), store.scope_of(name)))
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
                raise Refused(detail, problem(Problem.FORBIDDEN, detail, remedy=remedy)) from None
            raise Refused(str(exc)) from None
        except (NotFound, ValueError):
            raise Refused("the signature is not for a hybrid connection of this relay") from None
        if (key := connection.key_id(verified.rule_name, verified.slot)) is not None:
            self._managed.relay.note_use(key)
        generation = connection.generations.get((verified.rule_name, verified.slot), 0)
        credential = KeyCredential(name, verified.rule_name, verified.slot, generation)
        return Identified(_caller_by_key(credential, scope), credential, verified.expires_at)

    async def look_up(self, credential: TokenCredential | KeyCredential) -> Identified | None:
        """Return the current caller for a credential that was verified earlier; None if it is no longer valid."""
        try:
            if isinstance(credential, TokenCredential):
                id_ = credential.id
                token = await self._managed.read_store(lambda store: store.token(id_))
                is_valid = token is not None and self._managed.clock() < token.expires_at
                return self._identified_by_token(token) if token is not None and is_valid else None
            name = credential.connection
            connection, scope = await self._managed.read_store(lambda store: (store.get(name), store.scope_of(name)))
        except NotFound:
            return None
        except StateError as exc:
            raise problem_of(exc, conditional=False) from exc
        rule = connection.rule(credential.rule)
        generation = connection.generations.get((credential.rule, credential.slot), 0)
        if rule is None or Right.MANAGE not in rule.rights or generation != credential.generation:
            return None
        return Identified(_caller_by_key(credential, scope), credential, math.inf)

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
