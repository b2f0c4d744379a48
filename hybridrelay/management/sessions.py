"""The sessions of browsers that have logged in to the dashboard, and one-time codes for logging in. Pure.

A session belongs to a credential of the relay: a management token, or a key with the right Manage. It ends with that
credential: `gate.Gate` looks the credential up for each request. Sessions and codes are identified by the SHA-256 of
a random text that only the browser has, so that a copy of the relay's memory lets nobody in. Times are seconds since
1970.
"""

from __future__ import annotations

import hashlib
from typing import Final

import attrs

from ..security import KeySlot

__all__ = [
    "CODE_SECONDS",
    "SESSION_SECONDS",
    "KeyCredential",
    "Session",
    "Sessions",
    "TokenCredential",
    "digest_of",
]

#: How long a session lasts at most.
SESSION_SECONDS: Final = 8 * 3600.0
#: How long a one-time code can be used.
CODE_SECONDS: Final = 300.0
#: How many sessions one credential can have, and how many there are in total. The oldest makes room.
_MAX_OF_CREDENTIAL, _MAX_SESSIONS = 16, 1024
_MAX_CODES = 64


@attrs.frozen
class TokenCredential:
    """A management token."""

    id: str


@attrs.frozen
class KeyCredential:
    """A key of a hybrid connection's rule, by which a signature was made."""

    connection: str
    rule: str
    slot: KeySlot
    #: Changes with the key.
    generation: int


@attrs.frozen
class Session:
    """A browser that has logged in."""

    credential: TokenCredential | KeyCredential
    began_at: float
    expires_at: float


@attrs.frozen
class _Code:
    credential: TokenCredential
    expires_at: float


def digest_of(text: str) -> bytes:
    """How a session or a code is known here."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class Sessions:
    """All sessions, and the codes that were not used yet."""

    def __init__(self) -> None:
        #: In the order in which they began.
        self._sessions: dict[bytes, Session] = {}
        self._codes: dict[bytes, _Code] = {}

    def __len__(self) -> int:
        """The number of sessions, including those that have expired and were not removed yet."""
        return len(self._sessions)

    def begin(
        self, digest: bytes, credential: TokenCredential | KeyCredential, *, now: float, valid_until: float
    ) -> Session:
        """Begin a session.

        Args:
            digest: the hash of the text that only the browser has; see `digest_of`.
            credential: the credential, which has been verified.
            now: the time.
            valid_until: when the credential expires, and the session with it.
        """
        self._remove_expired(now)
        own = [key for key, session in self._sessions.items() if session.credential == credential]
        if len(own) >= _MAX_OF_CREDENTIAL:
            del self._sessions[own[0]]
        elif len(self._sessions) >= _MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        session = Session(credential, now, min(valid_until, now + SESSION_SECONDS))
        self._sessions[digest] = session
        return session

    def find(self, digest: bytes, now: float) -> Session | None:
        """The session of a browser, unless it has expired."""
        session = self._sessions.get(digest)
        if session is not None and now >= session.expires_at:
            self.end(digest)
            return None
        return session

    def end(self, digest: bytes) -> None:
        """End a session, if there is one."""
        self._sessions.pop(digest, None)

    def add_code(self, digest: bytes, credential: TokenCredential, now: float) -> None:
        """Let a code be used once within `CODE_SECONDS`. If there are too many, the oldest is dropped."""
        self._codes = {key: code for key, code in self._codes.items() if now < code.expires_at}
        if len(self._codes) >= _MAX_CODES:
            del self._codes[next(iter(self._codes))]
        self._codes[digest] = _Code(credential, now + CODE_SECONDS)

    def use_code(self, digest: bytes, now: float) -> TokenCredential | None:
        """The credential that a code stands for. The code cannot be used again."""
        code = self._codes.pop(digest, None)
        return None if code is None or now >= code.expires_at else code.credential

    def _remove_expired(self, now: float) -> None:
        self._sessions = {key: session for key, session in self._sessions.items() if now < session.expires_at}
