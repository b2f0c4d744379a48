"""Programs that this one starts get its environment without its secrets."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import hybridrelay
from hybridrelay._environment import SECRET_VARIABLES, without_secrets

#: What starts a program, by the last part of its name.
_STARTS = {
    "Popen", "check_call", "check_output", "create_subprocess_exec", "create_subprocess_shell",
    "open_process", "posix_spawn", "posix_spawnp", "run_process",
}  # fmt: skip


def _is_start(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute):
        return False
    of_subprocess = isinstance(call.func.value, ast.Name) and call.func.value.id == "subprocess"
    if call.func.attr in {"call", "run"}:
        return of_subprocess
    return call.func.attr in _STARTS


def _starts() -> Iterator[tuple[str, ast.Call]]:
    for root in hybridrelay.__path__:
        for path in sorted(Path(root).rglob("*.py")):
            # An installed package contains the benchmarks, too. They start only what they have made themselves.
            if path.relative_to(root).parts[0] == "_benchmarks":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and _is_start(node):
                    yield f"{path.relative_to(root)}:{node.lineno}", node


def test_only_the_secrets_are_left_out() -> None:
    assert without_secrets({"A": "1", **dict.fromkeys(SECRET_VARIABLES, "secret"), "B": ""}) == {"A": "1", "B": ""}
    assert set(SECRET_VARIABLES) == {
        "HYBRIDRELAY_CONNECTION_STRING", "HYBRIDRELAY_PROXY_PASSWORD", "HYBRIDRELAY_CLAIM_CODE",
    }  # fmt: skip


def test_whatever_is_started_gets_this_environment() -> None:
    found = dict(_starts())
    assert {where.split(":")[0] for where in found} >= {
        "connectivity/commands.py", "relay/service/worker_process.py", "cli/commands/service.py",
    }  # fmt: skip
    for where, call in found.items():
        given = {one.arg: ast.unparse(one.value) for one in call.keywords}
        assert given.get("env") == "without_secrets()", where
