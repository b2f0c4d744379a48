"""The tables of `docs/status.md` have everything that the code has, and nothing else."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest

from hybridrelay._histogram import HistogramSnapshot
from hybridrelay.audit.record import SinkProblem
from hybridrelay.cli.arguments.status import STATUS
from hybridrelay.connectivity.snapshot import RelayState, SessionState, StreamState, TargetCheck
from hybridrelay.management.live_values import ProblemCode
from hybridrelay.monitoring.metrics import endpoint_metrics
from hybridrelay.monitoring.operations import OPERATIONS
from hybridrelay.monitoring.readiness import endpoint_checks
from hybridrelay.monitoring.values import ProblemStatus, Role

from .snapshots import connection, endpoint

PAGE = (Path(__file__).parents[2] / "docs" / "status.md").read_text(encoding="utf-8")
ROLES: tuple[Role, ...] = ("connector", "forward")


def table(first_column: str) -> Iterator[list[str]]:
    """The cells of each row of the table whose first column has this heading."""
    found = re.search(rf"^\| {first_column} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert found is not None
    for row in found[1].splitlines():
        yield [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def names(first_column: str, role: Role | None = None) -> list[str]:
    """The names in the first column, of the rows that concern a program."""
    return [
        cells[0].strip("`")
        for cells in table(first_column)
        if role is None or cells[1] == "both" or cells[1].startswith(role)
    ]


def without_repetition(found: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(found))


def test_the_page_has_every_problem() -> None:
    assert sorted(names("problem")) == sorted(typing.get_args(typing.get_type_hints(ProblemStatus)["code"]))


@pytest.mark.parametrize(
    ("whose", "codes"),
    [
        ("a relay", typing.get_args(ProblemCode)),
        ("a connector or forward", typing.get_args(typing.get_type_hints(ProblemStatus)["code"])),
    ],
)
def test_the_problems_in_the_help_of_the_command(whose: str, codes: tuple[str, ...]) -> None:
    found = re.search(rf"^Problems of {whose}.*:\n((?:  .*\n)+)", STATUS.description, re.MULTILINE)
    assert found is not None
    lines = re.findall(r"^  (\S.*?)(?:  .*)?$", found[1], re.MULTILINE)
    assert sorted(code for line in lines for code in line.split(", ")) == sorted(codes)


@pytest.mark.parametrize("states", [RelayState, SessionState, StreamState])
def test_the_page_has_every_state(states: type[RelayState | SessionState | StreamState]) -> None:
    whose = states.__name__.removesuffix("State").lower()
    documented = [cells[0].strip("`") for cells in table("state") if cells[1] == whose]
    assert sorted(documented) == sorted(states)


@pytest.mark.parametrize("role", ROLES)
def test_the_page_has_every_metric(role: Role) -> None:
    lag = HistogramSnapshot((0.1,), (1, 1), 1.0)
    text = endpoint_metrics(endpoint(connection()), role=role, version="1", loop_lag=lag, descriptors=1)
    assert sorted(names("metric", role)) == sorted(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))


@pytest.mark.parametrize("role", ROLES)
def test_the_page_has_every_check(role: Role) -> None:
    sink = SinkProblem("/var/audit", "disk full", is_required=True)
    snapshot = endpoint(connection(), audit=(sink,) if role == "connector" else ())
    targets = [TargetCheck("db", "db.internal:5432")] if role == "connector" else []
    found = endpoint_checks(snapshot, targets, role=role, stopping=False)
    assert sorted(names("check", role)) == sorted(without_repetition(one.name for one in found))


def test_the_page_has_every_path() -> None:
    assert sorted(names("path")) == sorted(operation.path for operation in OPERATIONS)


def test_the_limits_of_a_list() -> None:
    """The limits in the text are those of the query."""
    (query,) = (operation.query for operation in OPERATIONS if operation.id == "getStatus")
    assert query is not None
    (schema,) = msgspec.json.schema_components([query])[1].values()
    limit = schema["properties"]["limit"]
    assert f"({limit['minimum']} to {limit['maximum']}, default {limit['default']})" in PAGE
