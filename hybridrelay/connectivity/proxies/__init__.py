"""Proxies in the path to the relay: which one to use, and how to open a connection through it."""

from __future__ import annotations

from .authentication import ProxyAnswer, ProxyAuthenticator
from .dial import ProxyDial, resolve_dialer
from .settings import Proxy, ProxySettings

__all__ = ["Proxy", "ProxyAnswer", "ProxyAuthenticator", "ProxyDial", "ProxySettings", "resolve_dialer"]
