"""Authentication at HTTP proxies: Basic authentication, and a hook for other schemes."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Sequence

from .settings import Proxy

#: Continues one authentication. Takes the values of the Proxy-Authenticate headers of the last answer (none before
#: the first request), and returns the value of Proxy-Authorization for the next request. None before the first
#: request sends no such header; None after challenges gives up. Code that may block (a request to a ticket server)
#: has to run in `trio.to_thread.run_sync`.
ProxyAnswer = Callable[[Sequence[str]], Awaitable[str | None]]
#: Begins an authentication: called once for each connection that is dialed through the proxy.
ProxyAuthenticator = Callable[[Proxy], ProxyAnswer]


def basic_authentication(proxy: Proxy) -> ProxyAnswer:
    """The default authenticator: sends user name and password with the first request (RFC 7617)."""
    sent = False

    async def answer(challenges: Sequence[str]) -> str | None:
        nonlocal sent
        if proxy.username is None or sent:
            return None
        sent = True
        password = "" if proxy.password is None else proxy.password.reveal()
        return "Basic " + base64.b64encode(f"{proxy.username}:{password}".encode()).decode()

    return answer
