"""The commands of the suite."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from .arguments import DESCRIPTION, EXAMPLES, add_arguments
from .comparison import compare, compare_ratios_of_ours, missing_ratios_of_ours, moves_table
from .model import ResultsError, Run, SkippedCase, read_run
from .plan import FULL, SHORT, Plan
from .report.page import write_page
from .report.peers import peers_table
from .report.speed import speed_table
from .report.tables import tables
from .runner import measure_all
from .scenarios import Case, choose_cases
from .systems import SYSTEMS, choose

_USAGE = 2
_FAILED = 1
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run a command line, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


def run(args: argparse.Namespace) -> int:
    """Run the command that the arguments select, and return the exit code."""
    try:
        return _ACTIONS[args.action](args)
    except (ResultsError, ValueError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return _USAGE
    except BrokenPipeError:  # the reader has ended (``| head``); the last flush must not fail either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return _FAILED


def make_plan(args: argparse.Namespace) -> Plan:
    """Return the parameters of the run that the arguments select."""
    plan = FULL if args.full else SHORT
    if args.seconds is not None:
        plan = attrs.evolve(plan, seconds=args.seconds)
    if args.rounds is not None:
        plan = attrs.evolve(plan, rounds=args.rounds, idle_rounds=args.rounds, line_rounds=args.rounds)
    return plan


def _measure(args: argparse.Namespace) -> int:
    _expect_files(args, 0)
    if sys.platform == "win32":
        raise OSError("the suite runs on Linux and, without figures of processes, on macOS")
    plan = make_plan(args)
    cases = choose_cases(plan, args.only)
    if unknown := set(args.systems or ()) - set(SYSTEMS):
        raise ValueError(f"no system {', '.join(sorted(unknown))}; there are: {', '.join(SYSTEMS)}")
    for file in (args.json, args.html):
        if file is not None and not file.parent.is_dir():
            raise ValueError(f"{file.parent}: no such directory")  # before anything is measured
    systems, skipped = choose(args.systems)
    skipped_cases = tuple(_missing(cases))
    for name, reason, remedy in [*map(attrs.astuple, skipped), *map(attrs.astuple, skipped_cases)]:
        print(f"skipped: {name} ({reason}); to get it: {remedy}", file=sys.stderr)
    cases = [case for case in cases if case.missing() is None]
    result = attrs.evolve(measure_all(cases, systems, skipped, plan, sys.stderr), skipped_cases=skipped_cases)
    if args.json is not None:
        args.json.write_text(result.dump(), "utf-8")
    _print(result, args.html)
    if not result.complete:
        return _INTERRUPTED
    if failed := result.failed():
        print(f"{len(failed)} of {len(result.samples)} measurements failed", file=sys.stderr)
        return _FAILED
    return 0


def _missing(cases: Sequence[Case]) -> Iterator[SkippedCase]:
    """Yield the cases that cannot be measured on this machine."""
    for case in cases:
        if (missing := case.missing()) is not None:
            yield SkippedCase(case.name, *missing)


def _list(args: argparse.Namespace) -> int:
    _expect_files(args, 0)
    print("cases:")
    for case in choose_cases(make_plan(args), args.only):
        missing = case.missing()
        print(f"  {case.name:22} {case.title}{f' [{missing[0]}: {missing[1]}]' if missing else ''}")
    print("systems:")
    for system in SYSTEMS.values():
        program = system.missing()
        print(f"  {system.name:22} {system.description}{f' [{program}: {system.remedy}]' if program else ''}")
    return 0


def _show(args: argparse.Namespace) -> int:
    (file,) = _expect_files(args, 1)
    _print(read_run(file), args.html)
    return 0


def _compare(args: argparse.Namespace) -> int:
    old, new = map(read_run, _expect_files(args, 2))
    print(moves_table(list(compare(old, new, ratios=False))))
    if _setting(old) != _setting(new):
        print("\nThe machines or versions differ: 'check' compares ratios instead.")
    return 0


def _setting(result: Run) -> tuple[dict[str, str], dict[str, str]]:
    """Return what has to be equal for absolute figures to be comparable."""
    machine = {key: value for key, value in result.machine.items() if not key.startswith("load")}
    return machine, dict(result.versions)


def _check(args: argparse.Namespace) -> int:
    old, new = map(read_run, _expect_files(args, 2))
    moves = compare_ratios_of_ours(old, new)
    moved = [move for move in moves if move.is_real]
    if not moves:
        raise ResultsError("the two runs have no ratio in common")
    print(moves_table(moves, everything=False) if moved else "nothing moved by more than the noise")
    print(f"\n{len(moved)} of {len(moves)} ratios moved")
    missing = missing_ratios_of_ours(old, new)
    if failed := [one.name for one in missing if one.was_tried]:
        print(f"not measured in the new run, although it was tried: {', '.join(failed)}")
    skipped = [one for one in missing if not one.was_tried]
    for one in skipped:
        print(f"not measured in the new run: {one}")
    if skipped and not args.allow_skipped:
        print("The check fails because of that; with --allow-skipped, it compares what both runs have.")
    is_incomplete = bool(failed) or (bool(skipped) and not args.allow_skipped)
    return _FAILED if is_incomplete or any(move.change < 0 for move in moved) else 0


def _micro(args: argparse.Namespace) -> int:
    from .micro.suite import run_micro

    _expect_files(args, 0)
    return run_micro(args.json, args.only)


def _expect_files(args: argparse.Namespace, count: int) -> list[Path]:
    files: list[Path] = args.files
    if len(files) != count:
        raise ValueError(f"'{args.action}' takes {count or 'no'} file{'' if count == 1 else 's'}, not {len(files)}")
    return files


def _print(result: Run, html: Path | None) -> None:
    for table in [*tables(result), peers_table(result), speed_table(result)]:
        if table is not None:
            print(table, end="\n\n")
    if not result.complete:
        print("This run was interrupted: it is not complete.")
    if html is not None:
        print(write_page(result, html))


_ACTIONS = {
    "run": _measure,
    "list": _list,
    "show": _show,
    "compare": _compare,
    "check": _check,
    "micro": _micro,
}
