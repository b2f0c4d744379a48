"""The texts of failures at a proxy, without credentials. What the proxy sent is shortened and made printable."""

from __future__ import annotations

from ..._printable import printable
from ...failure import Failure, FailureKind
from ..dialing import ProxyError
from .settings import Proxy

#: The longest quotation of what the proxy sent (characters): a reason phrase, a list of schemes.
_MAX_QUOTE = 80


def proxy_error(kind: FailureKind, proxy: Proxy, happened: str, *, remedy: str | None = None) -> ProxyError:
    """The error for a proxy that did something.

    Args:
        kind: for programs; also gives the remedy where there is no better one.
        proxy: which.
        happened: what follows "the proxy X" in the text.
        remedy: what to do about it.
    """
    return ProxyError(Failure(kind, f"the proxy {proxy} {happened}", remedy or Failure.of(kind).remedy))


def quote_untrusted(sent: bytes) -> str:
    """Something that a proxy sent, made fit for a line of text."""
    text = sent.decode("ascii", "replace")[:_MAX_QUOTE]
    return printable(text).strip()
