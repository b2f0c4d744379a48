"""Proxies on the way to the relay: which one, and how to get through it."""

from __future__ import annotations

from .dial import ProxyDial, resolve_dialer
from .http import ProxyAnswer, ProxyAuthenticator
from .settings import Proxy, ProxySettings

__all__ = ["Proxy", "ProxyAnswer", "ProxyAuthenticator", "ProxyDial", "ProxySettings", "resolve_dialer"]
