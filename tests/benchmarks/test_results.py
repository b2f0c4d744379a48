"""What a run leaves behind can be read again, and nothing else can."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest

from benchmarks.model import ResultsError, Run, Sample, SkippedCase, load_run, read_run
from benchmarks.plan import FULL, SHORT, Plan

from .fabricated import make_run


def test_json_and_back() -> None:
    run = make_run("bulk/down/1", "mb_per_s", {"ssh": [1.0, 2.0], "tcp": [3.5]}, complete=False)
    skipped = (SkippedCase("postgres/1", "not installed", "apt install postgresql"),)
    failed = Sample("idle/1", "ssh", 0, error="refused")
    run = attrs.evolve(run, samples=(*run.samples, failed), skipped_cases=skipped)
    assert load_run(run.dump()) == run
    assert load_run(load_run(run.dump()).dump()) == run


@pytest.mark.parametrize("plan", [SHORT, FULL])
def test_parameters_are_json(plan: Plan) -> None:
    run = Run("now", {}, {}, plan.as_parameters())
    assert load_run(run.dump()).parameters == json.loads(json.dumps(run.parameters))


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", '{"schema": 1}', '{"schema": 1, "skipped": 3, "samples": []}'])
def test_anything_else_is_an_error(text: str) -> None:
    with pytest.raises(ResultsError):
        load_run(text)


def test_another_schema_is_an_error() -> None:
    text = make_run("a/b", "ms", {"tcp": [1.0]}).dump().replace('"schema": 1', '"schema": 999')
    with pytest.raises(ResultsError, match="schema 999"):
        load_run(text)


def test_the_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text("{}")
    with pytest.raises(ResultsError, match=r"odd\.json"):
        read_run(tmp_path / "odd.json")


def test_looking_things_up() -> None:
    run = make_run("bulk/down/1", "mb_per_s", {"ssh": [1.0, 2.0], "tcp": [3.5]})
    assert run.cases == ["bulk/down/1"]
    assert run.systems == ["ssh", "tcp"]
    assert run.values("bulk/down/1", "ssh", "mb_per_s") == {0: 1.0, 1: 2.0}
    assert run.values("bulk/down/1", "ssh", "ms") == {}
    assert run.metrics("bulk/down/1") == ["mb_per_s"]
    assert [usage.cpu_seconds for usage in run.usages("bulk/down/1", "ssh")["client"]] == [0.25, 0.25]
