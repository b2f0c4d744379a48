"""Reaching a relay: which transports are installed, which route works, and channels over that route."""

from __future__ import annotations

from ..failure import Failure, FailureKind, Step
from .backoff import Backoff
from .channel import open_channel, open_control_stream
from .dialing import DIRECTLY, DialError, ProxyError, dial_directly
from .discovery import AUTO, BrokenTransport, Candidate, all_ports, candidates, discover
from .endpoint import RelayEndpoint, format_address
from .port_check import CheckTiming
from .prober import Prober, ProbeTiming, RouteChoice
from .proxies import Proxy, ProxyAnswer, ProxyAuthenticator, ProxyDial, ProxySettings, resolve_dialer
from .report import Attempt, NoRouteWorks, Outcome, Report

__all__ = [
    "AUTO",
    "DIRECTLY",
    "Attempt",
    "Backoff",
    "BrokenTransport",
    "Candidate",
    "CheckTiming",
    "DialError",
    "Failure",
    "FailureKind",
    "NoRouteWorks",
    "Outcome",
    "ProbeTiming",
    "Prober",
    "Proxy",
    "ProxyAnswer",
    "ProxyAuthenticator",
    "ProxyDial",
    "ProxyError",
    "ProxySettings",
    "RelayEndpoint",
    "Report",
    "RouteChoice",
    "Step",
    "all_ports",
    "candidates",
    "dial_directly",
    "discover",
    "format_address",
    "open_channel",
    "open_control_stream",
    "resolve_dialer",
]
