"""Checks the parameters in paths, which are names and ids, before anything is looked up. Pure."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from ..http import Request, RequestError
from ..security import check_connection_name, check_rule_name, check_token_id
from .problem_kinds import Problem
from .problems import problem

__all__ = ["check_param", "param_of", "valid_params"]

#: The form of the ids of instances, sessions and claims, and that of the ids of senders and audit logs.
_LONG_ID, _SHORT_ID = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{16}")

_EDITION = re.compile(r"[a-z0-9-]{1,64}")


def valid_params(names: Iterable[str], read: Callable[[str], str]) -> dict[str, str]:
    """Return the valid parameters by name, for the audit log, which also records refused calls.

    Args:
        names: the names of the parameters.
        read: returns the value of a parameter. It may raise RequestError.
    """
    found = {}
    for name in names:
        with contextlib.suppress(RequestError):
            found[name] = check_param(name, read(name))
    return found


def _check_id(pattern: re.Pattern[str], value: str) -> str:
    if not pattern.fullmatch(value):
        raise ValueError("there is none with this id")
    return value


def _check_edition(value: str) -> str:
    if not _EDITION.fullmatch(value):
        raise ValueError("there is no edition with this name")
    return value


_CHECKS: Mapping[str, Callable[[str], str]] = {
    "name": check_connection_name,
    "rule": check_rule_name,
    "instance": partial(_check_id, _LONG_ID),
    "sender": partial(_check_id, _SHORT_ID),
    "claim": partial(_check_id, _LONG_ID),
    "session": partial(_check_id, _LONG_ID),
    "token": check_token_id,
    "edition": _check_edition,
    "log": partial(_check_id, _SHORT_ID),
}


def param_of(request: Request, name: str) -> str:
    """Return the decoded value of a parameter of a request's path. Raises RequestError (404)."""
    return check_param(name, request.param(name))


def check_param(name: str, value: str) -> str:
    """Return `value` if it is a valid value of this parameter. Raises RequestError (404)."""
    try:
        return _CHECKS[name](value)
    except ValueError as exc:
        raise problem(Problem.NOT_FOUND, str(exc)) from exc
