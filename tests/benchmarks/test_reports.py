"""What people read is right, complete, and needs nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from benchmarks.main import main
from benchmarks.metrics import METRICS
from benchmarks.model import Run, Sample, SkippedCase, Usage, read_run
from benchmarks.plan import FULL, SHORT
from benchmarks.report.page import write_page
from benchmarks.report.peers import FIGURES, peers_table
from benchmarks.report.speed import LINES, speed_table
from benchmarks.report.tables import tables
from benchmarks.scenarios import choose_cases
from benchmarks.systems import PEERS, SYSTEMS

from .fabricated import make_run

BULK = make_run("bulk/down/1", "mb_per_s", {"ssh": [100, 110, 90], "tcp": [150, 165, 135], "ws": [60, 66, 54]})


def rows_of(run: Run) -> dict[str, tuple[str, ...]]:
    return {row[0]: tuple(row[1:]) for row in speed_table(run).rows}


def test_a_table_has_medians_spreads_and_ratios() -> None:
    (table,) = tables(BULK)
    rows = {row[0]: row for row in table.rows}
    assert list(rows["tcp"][1:3]) == ["150.0 ±10%", "1.50"]
    assert rows["ssh"][2] == "1.00"
    assert rows["tcp"][3:] == ["0.25", "5"]


def test_a_failure_is_in_the_table() -> None:
    run = attrs.evolve(BULK, samples=(*BULK.samples, Sample("bulk/down/1", "frp", 0, error="it would not")))
    table = next(iter(tables(run)))
    assert table.header[-1] == "failed"
    assert [row[-1] for row in table.rows] == ["", "", "", "it would not"]


def test_a_case_in_which_everything_failed() -> None:
    run = attrs.evolve(BULK, samples=(Sample("bulk/down/1", "frp", 0, error="it would not"),))
    assert "it would not" in str(next(iter(tables(run))))


def test_lines_are_reached_or_missed() -> None:
    rows = rows_of(BULK)
    assert rows["native bulk, one stream down, against the ssh chain"] == (
        ">= 1.9 x", "1.50", "1.50", "1.50", "MISSED",
    )  # fmt: skip
    aes = rows_of(make_run("bulk/down/1", "mb_per_s", {"ssh-aes128": [100], "tcp": [150]}))
    assert aes["native bulk, one stream down, against the ssh chain with AES-128"][-1] == "reached"
    assert rows["ws bulk down, against native"] == (">= 0.8 x", "0.40", "0.40", "0.40", "MISSED")
    assert rows["ws bulk up, against native"][1] == "not measured"
    assert len(rows) == len(LINES)


def test_other_tunnels_are_compared_with_the_unfavourable_rows_first() -> None:
    slow = make_run("open/1", "p50_us", {"tcp": [3000], "chisel": [1500], "ssh": [42_000]})
    rate = make_run("open/16", "per_s", {"tcp": [300, 330], "chisel": [400, 660]})
    fast = make_run("chatty/beside", "p99_us", {"tcp": [9000], "chisel": [90_000]})
    alone = make_run("cold/start", "ms", {"tcp": [200], "haproxy": [20]})
    runs = (fast, rate, slow, alone)
    table = peers_table(attrs.evolve(BULK, samples=tuple(sample for run in runs for sample in run.samples)))
    assert table is not None
    assert list(table.header) == ["", "native", "ssh", "chisel"]
    assert [tuple(row) for row in table.rows] == [
        ("open and get a byte, median, us", "3,000", "42,000 (14.00)", "1,500 (0.50)"),
        ("open and get a byte, 16 at a time, 1/s", "315", "-", "530 (0.62)"),
        ("1,000 chatty streams beside bulk, p99, us", "9,000", "-", "90,000 (10.00)"),
    ]


def test_without_other_tunnels_there_is_no_table_of_them() -> None:
    assert peers_table(make_run("open/1", "p50_us", {"tcp": [3000], "haproxy": [1500]})) is None


def test_the_rows_about_other_tunnels_are_about_cases_of_the_suite() -> None:
    cases = {case.name for plan in (SHORT, FULL) for case in choose_cases(plan, None)}
    assert {figure.case for figure in FIGURES} <= cases
    assert {figure.metric for figure in FIGURES} <= METRICS.keys()
    assert set(PEERS) < SYSTEMS.keys()


def test_the_relays_share_of_the_processor() -> None:
    usage = {"relay": Usage(0.1, 0), "client": Usage(0.5, 0)}
    run = attrs.evolve(BULK, samples=(Sample("bulk/up/1", "tcp", 0, {"mb_per_s": 1.0}, usage),))
    assert rows_of(run)["relay's CPU per GB up, against the client's"][1:] == ("0.20", "0.20", "0.20", "reached")


def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_page(attrs.evolve(BULK, complete=False), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count("<svg") == 1
    assert page.count("data:image/png;base64,") == 1
    assert "not complete" in page
    assert not re.search(r"(src|href)=.?(?!.?data:|.?#)", page.replace("xlink:href", "href"))


def test_the_page_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "benchmarks.report.plots", raising=False)
    assert "pip install matplotlib" in write_page(BULK, tmp_path / "page.html")
    assert "<svg" not in (tmp_path / "page.html").read_text("utf-8")


def test_what_was_measured_is_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "benchmarks.report.plots", raising=False)
    run = attrs.evolve(BULK, machine={"processor": "<b>&"}, samples=())
    write_page(run, tmp_path / "page.html")
    assert "&lt;b&gt;&amp;" in (tmp_path / "page.html").read_text("utf-8")


def save(tmp_path: Path, name: str, run: Run) -> str:
    path = tmp_path / name
    path.write_text(run.dump(), "utf-8")
    return str(path)


def test_compare_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = save(tmp_path, "old.json", BULK)
    slower = make_run("bulk/down/1", "mb_per_s", {"ssh": [100, 110, 90], "tcp": [75, 82, 67], "ws": [60, 66, 54]})
    new = save(tmp_path, "new.json", slower)
    assert main(["compare", old, new]) == 0
    assert "WORSE" in capsys.readouterr().out
    assert main(["check", old, new]) == 1
    assert "1 of 2 ratios moved" in capsys.readouterr().out
    assert main(["check", new, old]) == 0
    assert main(["check", old, old]) == 0
    assert main(["show", old]) == 0


def test_check_fails_where_something_was_not_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    partly = attrs.evolve(BULK, samples=tuple(
        attrs.evolve(one, metrics={}, error="would not start") if one.system == "ws" else one for one in BULK.samples
    ))  # fmt: skip
    assert main(["check", save(tmp_path, "old.json", BULK), save(tmp_path, "new.json", partly)]) == 1
    assert "not measured in the new run, although it was tried: bulk/down/1 ws" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "one.json"],
        ["run", "file.json"],
        ["--only", "nonsense"],
        ["--systems", "nonsense"],
        ["--json", "no/such/directory/x.json"],
    ],
)
def test_what_makes_no_sense_is_said_at_once(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_real_but_tiny_run(tmp_path: Path) -> None:
    """No figure is looked at: only that there are some.

    The current directory has a package of the suite's name, which is not imported.
    """
    (tmp_path / "hybridrelay").mkdir()
    (tmp_path / "benchmarks").mkdir()
    for package in ("hybridrelay", "benchmarks"):
        (tmp_path / package / "__init__.py").write_text("raise ImportError('not this one')\n", "utf-8")
    cases = ["bulk/down/1", "bulk/up/1", "requests/64/16", "open/16"]
    command = [
        sys.executable,
        "-P",
        "-m",
        "hybridrelay",
        "bench",
        *(part for case in cases for part in ("--only", case)),
    ]
    command += ["--systems", "direct,splice", "--rounds", "1", "--seconds", "0.5", "--json", str(tmp_path / "x.json")]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = read_run(tmp_path / "x.json")
    assert run.complete
    assert run.cases == cases
    assert not [sample.error for sample in run.samples if sample.error]
    for sample in run.samples:
        assert all(value > 0 for name, value in sample.metrics.items() if not name.startswith("cpu"))


def test_check_fails_where_a_case_was_skipped_unless_that_is_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_run("postgres/1", "ms", {"ssh": [2.0], "tcp": [1.0]})
    both = attrs.evolve(BULK, samples=(*BULK.samples, *other.samples))
    skipped = SkippedCase("postgres/1", "PostgreSQL is not installed", "apt install postgresql")
    without = attrs.evolve(BULK, skipped_cases=(skipped,))
    old, new = save(tmp_path, "old.json", both), save(tmp_path, "new.json", without)
    assert main(["check", old, new]) == 1
    assert "postgres/1 tcp (PostgreSQL is not installed" in capsys.readouterr().out
    assert main(["check", old, new, "--allow-skipped"]) == 0
    assert "postgres/1 tcp (PostgreSQL is not installed" in capsys.readouterr().out
    assert main(["check", new, old]) == 0
