"""Turns, failures, interruptions: what is measured, and what is left when something goes wrong."""

from __future__ import annotations

import io
import signal
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import main as main_module
from benchmarks import servers
from benchmarks.main import main
from benchmarks.model import Run
from benchmarks.plan import SHORT
from benchmarks.programs import Program, ProgramError
from benchmarks.progress import Estimate
from benchmarks.runner import in_turns, measure_all
from benchmarks.scenarios import SCENARIOS, Case, choose_cases, endurance
from benchmarks.stage import SERVERS, Outcome, Stage
from benchmarks.systems import SYSTEMS, Deployment, Server, System, choose
from benchmarks.systems import base as systems_base


class Nothing(System):
    """A system that is never started."""

    description = "nothing"

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self, deployment: Deployment) -> None:
        raise AssertionError("nobody asked for it")


A, B, C = SYSTEM_LIST = [Nothing("a"), Nothing("b"), Nothing("c")]


class Measured:
    """Counts, and raises at a given call, or whenever it is a given system's turn."""

    def __init__(self, at: int | str | None = None, raises: BaseException | None = None) -> None:
        self.calls: list[str] = []
        self._at, self._raises = at, raises

    def __call__(self, stage: Stage, system: System) -> Outcome:
        self.calls.append(system.name)
        if self._raises is not None and self._at in {len(self.calls), system.name}:
            raise self._raises
        return Outcome({"ms": float(len(self.calls))})


def measure(measured: Measured, *, rounds: int = 2) -> tuple[Run, str]:
    messages = io.StringIO()
    case = Case("scenario/case", "a case", measured, rounds, 0.1)
    return measure_all([case], SYSTEM_LIST, [], SHORT, messages), messages.getvalue()


def test_every_round_has_every_system_and_begins_with_another() -> None:
    rounds = [[system.name for system in in_turns(SYSTEM_LIST, round_)] for round_ in range(6)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert Counter(order[0] for order in rounds) == {"a": 2, "b": 2, "c": 2}
    assert in_turns([], 3) == []


def test_systems_take_turns() -> None:
    measured = Measured()
    run, _ = measure(measured)
    assert measured.calls == ["a", "b", "c", "b", "c", "a"]
    assert run.complete
    assert run.values("scenario/case", "a", "ms") == {0: 1.0, 1: 6.0}


def test_an_interruption_leaves_what_there_is() -> None:
    run, messages = measure(Measured(3, KeyboardInterrupt()))
    assert [sample.system for sample in run.samples] == ["a", "b"]
    assert not run.complete
    assert "interrupted" in messages


@pytest.mark.parametrize("error", [ProgramError("b: would not\n  start"), ConnectionRefusedError("b: would not")])
def test_a_system_that_fails_is_reported_and_tried_once_more(error: Exception) -> None:
    measured = Measured("b", error)
    run, messages = measure(measured, rounds=4)
    assert run.complete
    assert [sample.error for sample in run.samples if sample.system == "b"] == ["b: would not"] * 2
    assert [measured.calls.count(name) for name in "abc"] == [4, 2, 4]
    assert "would not" in messages


def test_a_bug_is_not_a_failed_measurement() -> None:
    with pytest.raises(ZeroDivisionError):
        measure(Measured(1, ZeroDivisionError()))


def test_sigterm_is_handled_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    measure(Measured())
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_is_missing_is_skipped_and_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems_base, "find", lambda name: None)
    chosen, skipped = choose(None)
    assert [system.name for system in chosen] == ["direct", "splice", "tcp", "ws", "wss"]
    assert len(chosen) + len(skipped) == len(SYSTEMS)
    for one in skipped:
        assert "not found" in one.reason
        assert one.remedy


def test_only_what_was_asked_for_can_be_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems_base, "find", lambda name: None if name == "frpc" else f"/bin/{name}")
    chosen, skipped = choose(["frp", "ssh"])
    assert [system.name for system in chosen] == ["ssh"]
    assert [(one.system, one.reason) for one in skipped] == [("frp", "frpc not found")]


def test_cases_are_chosen_by_their_beginning() -> None:
    assert [case.name for case in choose_cases(SHORT, ["requests/64"])] == ["requests/64/1", "requests/64/16"]
    assert [case.name for case in choose_cases(SHORT, ["open/1"])] == ["open/1"]
    with pytest.raises(ValueError, match="no case 'bul'"):
        choose_cases(SHORT, ["bul"])


def test_names_of_cases_are_unique_and_begin_with_their_scenario() -> None:
    names = [case.name for case in choose_cases(SHORT, None)]
    assert len(set(names)) == len(names)
    for scenario in SCENARIOS:
        assert any(name.startswith(f"{scenario}/") for name in names)


@pytest.mark.parametrize(("limit", "name"), [(24_000, "idle/10000"), (20_000, "idle/9750"), (1024, "idle/262")])
def test_idle_streams_leave_half_of_the_descriptors_to_others(
    monkeypatch: pytest.MonkeyPatch, limit: int, name: str
) -> None:
    """A connector gives a single application half of its descriptors. It would refuse further streams."""
    monkeypatch.setattr(endurance, "raise_descriptor_limit", lambda: limit)
    (case,) = choose_cases(SHORT, ["idle"])
    assert case.name == name
    assert case.suits(SYSTEMS["haproxy"])
    assert not case.suits(SYSTEMS["wstunnel"])
    assert not case.suits(SYSTEMS["rathole"])


def test_the_estimate_learns_from_what_was_done() -> None:
    now = 100.0
    estimate = Estimate(100.0, lambda: now)
    assert (estimate.part, estimate.left) == (0, 100)
    now += 100
    estimate.advance(50)  # twice as slow as expected
    assert estimate.part == 0.5
    assert 90 < estimate.left < 100
    estimate.advance(60)
    assert (estimate.part, estimate.left) == (1, 0)


def test_a_server_that_does_not_start_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Path] = []

    def start(directory: Path) -> tuple[Program, Server]:
        directory.mkdir()
        started.append(directory)
        raise ProgramError("target: no such luck")

    monkeypatch.setitem(SERVERS, "target", start)
    with Stage(tmp_path) as stage:
        for _ in range(2):
            with pytest.raises(ProgramError, match="no such luck"):
                stage.server("target")
    assert len(started) == 1


def test_a_case_whose_server_is_absent_is_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(servers, "find", lambda name: None)
    monkeypatch.setattr(main_module, "choose", lambda names: ([A], []))
    assert main(["--only", "redis"]) == 0
    assert "skipped: redis/get (Redis not found); to get it: apt install redis-server" in capsys.readouterr().err


def test_a_failed_measurement_is_a_failed_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Case("scenario/case", "a case", Measured("b", ProgramError("would not")), 2, 0.1)
    monkeypatch.setattr(main_module, "choose", lambda names: (SYSTEM_LIST, []))
    monkeypatch.setattr(main_module, "choose_cases", lambda plan, only: [case])
    assert main([]) == 1
    assert "2 of 6 measurements failed" in capsys.readouterr().err
