"""Errors for failures at a proxy. They contain no credentials; text from the proxy is shortened and made
printable."""

from __future__ import annotations

from ..._printable import printable
from ...failure import Failure, FailureKind
from ..dialing import ProxyError
from .settings import Proxy

#: How much of what the proxy sent is quoted at most (characters), for instance of a reason phrase.
_MAX_QUOTE = 80


def proxy_error(kind: FailureKind, proxy: Proxy, happened: str, *, remedy: str | None = None) -> ProxyError:
    """Return the error for a failure at a proxy.

    Args:
        kind: for programs; also determines the remedy if `remedy` is None.
        proxy: the proxy.
        happened: what happened, as the rest of a sentence that begins with "the proxy X".
        remedy: what to do about it.
    """
    return ProxyError(Failure(kind, f"the proxy {proxy} {happened}", remedy or Failure.of(kind).remedy))


def quote_untrusted(sent: bytes) -> str:
    """Return text that a proxy has sent, shortened and made printable."""
    text = sent.decode("ascii", "replace")[:_MAX_QUOTE]
    return printable(text).strip()
