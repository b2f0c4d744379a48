"""What goes wrong with a proxy, in words. No text holds credentials, and what the proxy says is cut and cleaned."""

from __future__ import annotations

from ..._printable import printable
from ...failure import Failure, FailureKind
from ..dialing import ProxyError
from .settings import Proxy

#: Of what the proxy says itself (characters): a reason phrase, a list of schemes.
_MAX_QUOTE = 80


def proxy_error(kind: FailureKind, proxy: Proxy, happened: str, *, remedy: str | None = None) -> ProxyError:
    """The error for a proxy that did something.

    Args:
        kind: for programs; also gives the remedy where there is no better one.
        proxy: which.
        happened: what stands behind "the proxy X".
        remedy: what to do about it.
    """
    return ProxyError(Failure(kind, f"the proxy {proxy} {happened}", remedy or Failure.of(kind).remedy))


def quote_untrusted(said: bytes) -> str:
    """Something that a proxy said, fit for a line of text."""
    text = said.decode("ascii", "replace")[:_MAX_QUOTE]
    return printable(text).strip()
