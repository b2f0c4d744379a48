"""Reaching a relay: which transports are installed, which route works, and channels over that route.

Names are loaded when they are first used, because a relay only needs to know which transports are installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import load_when_used
from ..failure import Failure, FailureKind, Step

if TYPE_CHECKING:
    from .backoff import Backoff as Backoff
    from .channel import open_channel as open_channel
    from .channel import open_control_stream as open_control_stream
    from .dialing import DIRECTLY as DIRECTLY
    from .dialing import DialError as DialError
    from .dialing import ProxyError as ProxyError
    from .dialing import dial_directly as dial_directly
    from .discovery import AUTO as AUTO
    from .discovery import BrokenTransport as BrokenTransport
    from .discovery import Candidate as Candidate
    from .discovery import all_ports as all_ports
    from .discovery import candidates as candidates
    from .discovery import discover as discover
    from .endpoint import RelayEndpoint as RelayEndpoint
    from .endpoint import format_address as format_address
    from .port_check import CheckTiming as CheckTiming
    from .prober import Prober as Prober
    from .prober import ProbeTiming as ProbeTiming
    from .prober import RouteChoice as RouteChoice
    from .proxies import Proxy as Proxy
    from .proxies import ProxyAnswer as ProxyAnswer
    from .proxies import ProxyAuthenticator as ProxyAuthenticator
    from .proxies import ProxyDial as ProxyDial
    from .proxies import ProxySettings as ProxySettings
    from .proxies import resolve_dialer as resolve_dialer
    from .report import Attempt as Attempt
    from .report import NoRouteWorks as NoRouteWorks
    from .report import Outcome as Outcome
    from .report import Report as Report

_HOMES = {
    "backoff": ("Backoff",),
    "channel": ("open_channel", "open_control_stream"),
    "dialing": ("DIRECTLY", "DialError", "ProxyError", "dial_directly"),
    "discovery": ("AUTO", "BrokenTransport", "Candidate", "all_ports", "candidates", "discover"),
    "endpoint": ("RelayEndpoint", "format_address"),
    "port_check": ("CheckTiming",),
    "prober": ("Prober", "ProbeTiming", "RouteChoice"),
    "proxies": (
        "Proxy",
        "ProxyAnswer",
        "ProxyAuthenticator",
        "ProxyDial",
        "ProxySettings",
        "resolve_dialer",
    ),
    "report": ("Attempt", "NoRouteWorks", "Outcome", "Report"),
}

__all__ = ["Failure", "FailureKind", "Step", *(name for names in _HOMES.values() for name in names)]  # noqa: PLE0604

__getattr__, __dir__ = load_when_used(__name__, _HOMES)
