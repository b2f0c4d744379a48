"""Verifies credentials of this relay: management tokens, and signatures by keys with the right Manage."""

from __future__ import annotations

import math

import attrs
import trio

from .._value import Value
from ..errors import AuthorizationError, ConfigurationError, StateError
from ..events.management import ManagementTokenUseNotSaved
from ..http import RequestError
from ..protocol.reasons import Reason
from ..relay import Store
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

__all__ = ["Identified", "OwnCredentials", "Refused", "is_still_valid"]

#: How often the times at which tokens were used are written to the store (seconds).
_SAVE_SECONDS = 60.0


class Refused(Exception):
    """The credentials are invalid, or do not suffice. The text is for the log, and contains no secret."""

    def __init__(self, detail: str, answer: RequestError | None = None) -> None:
        super().__init__(detail)
        #: The response to the client; None means 401.
        self.answer = answer


@attrs.frozen
class Identified(Value):
    """The caller to whom credentials of this relay belong."""

    caller: Caller
    credential: TokenCredential | KeyCredential
    #: When the credentials expire (seconds since 1970); infinity for a key whose signature was verified earlier.
    expires_at: float


def _caller_by_key(credential: KeyCredential, scope: str) -> Caller:
    """Return who has a key. `scope`: see `tenant_of`."""
    id_, name = f"{credential.connection} {credential.rule} {credential.slot}", credential.connection
    return Caller("sas", id_, ManagementRole.ADMIN, Scope(only=name), tenant_of(name, scope), credential)


def is_still_valid(store: Store, credential: TokenCredential | KeyCredential, now: float) -> bool:
    """Return whether a credential that was verified earlier is valid.

    Args:
        store: where tokens and keys are looked up.
        credential: identifies the token or the key.
        now: seconds since 1970.

    Raises:
        StateError: the store cannot be read.
    """
    if isinstance(credential, TokenCredential):
        token = store.token(credential.id)
        return token is not None and now < token.expires_at
    try:
        connection = store.get(credential.connection)
    except NotFound:
        return False
    rule = connection.rule(credential.rule)
    generation = connection.generations.get((credential.rule, credential.slot), 0)
    return rule is not None and Right.MANAGE in rule.rights and generation == credential.generation


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
        """Verify credentials of this relay. Returns None if they are of another kind.

        Raises:
            Refused: they are invalid, or do not suffice.
            StateError: the store cannot be read.
        """
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
        id_, credential = f"{token.name} {token.id}", TokenCredential(token.id)
        caller = Caller("token", id_, token.role, Scope(token.scope), credential=credential)
        return Identified(caller, credential, token.expires_at)

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
                rules=connection.rules,
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
        """Return the current caller for a credential that was verified earlier; None if it is no longer valid.

        Raises:
            RequestError: the store cannot be read.
        """
        now = self._managed.clock()

        def look_up(store: Store) -> ManagementToken | str | None:
            """Return the token, or the scope of the key's hybrid connection."""
            if not is_still_valid(store, credential, now):
                return None
            if isinstance(credential, TokenCredential):
                return store.token(credential.id)
            return store.scope_of(credential.connection)

        try:
            found = await self._managed.read_store(look_up)
        except StateError as exc:
            raise problem_of(exc, conditional=False) from exc
        if isinstance(credential, KeyCredential) and isinstance(found, str):
            return Identified(_caller_by_key(credential, found), credential, math.inf)
        return self._identified_by_token(found) if isinstance(found, ManagementToken) else None

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
