"""Proxies in the path to the relay: which one to use, and how to open a connection through it."""

from __future__ import annotations

from .dial import ProxyDial, resolve_dialer
from .http import ProxyAnswer, ProxyAuthenticator
from .settings import Proxy, ProxySettings

__all__ = ["Proxy", "ProxyAnswer", "ProxyAuthenticator", "ProxyDial", "ProxySettings", "resolve_dialer"]
