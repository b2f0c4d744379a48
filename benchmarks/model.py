"""The results of a run as plain values, and their JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

#: Incremented when old files can no longer be read.
SCHEMA = 1


class ResultsError(ValueError):
    """A file was not written by `Run.dump`."""


@attrs.frozen
class Usage:
    """The resource usage of all processes of one role during one measurement."""

    cpu_seconds: float
    peak_bytes: int


@attrs.frozen
class Sample:
    """One measurement of one system in one round."""

    #: The scenario, a slash, and the variant, such as ``bulk/down/1``.
    case: str
    system: str
    round: int
    #: The values by the names in `metrics.METRICS`; empty if the measurement failed.
    metrics: Mapping[str, float] = attrs.field(factory=dict[str, float])
    #: The usage by role: client, relay and connector, and the suite's own source and target.
    usage: Mapping[str, Usage] = attrs.field(factory=dict[str, Usage])
    #: Why there are no metrics.
    error: str | None = None


@attrs.frozen
class Skipped:
    """A system that was not measured."""

    system: str
    reason: str
    remedy: str


@attrs.frozen
class SkippedCase:
    """A case that was not measured, because this machine lacks what it needs."""

    case: str
    reason: str
    remedy: str


@attrs.frozen
class Run:
    """All results of one run of the suite."""

    #: When the run began (ISO 8601).
    started: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    parameters: Mapping[str, Any]
    skipped: tuple[Skipped, ...] = ()
    skipped_cases: tuple[SkippedCase, ...] = ()
    samples: tuple[Sample, ...] = ()
    #: Whether the run was completed. False if it was interrupted.
    complete: bool = True

    @property
    def cases(self) -> list[str]:
        """All cases, in the order in which they were measured."""
        return list(dict.fromkeys(sample.case for sample in self.samples))

    @property
    def systems(self) -> list[str]:
        """All systems, in the order in which they were measured first."""
        return list(dict.fromkeys(sample.system for sample in self.samples))

    def values(self, case: str, system: str, metric: str) -> dict[int, float]:
        """Return the measured values, by round."""
        return {
            sample.round: sample.metrics[metric]
            for sample in self.samples
            if sample.case == case and sample.system == system and metric in sample.metrics
        }

    def metrics(self, case: str) -> list[str]:
        """Return the metrics of a case, the most important first."""
        found = (sample.metrics for sample in self.samples if sample.case == case)
        return list(dict.fromkeys(name for metrics in found for name in metrics))

    def failed(self) -> list[Sample]:
        """Return the measurements that failed."""
        return [sample for sample in self.samples if sample.error is not None]

    def usages(self, case: str, system: str) -> dict[str, list[Usage]]:
        """Return the usage of each role, round by round."""
        by_role: dict[str, list[Usage]] = {}
        for sample in self.samples:
            if sample.case == case and sample.system == system:
                for role, usage in sample.usage.items():
                    by_role.setdefault(role, []).append(usage)
        return by_role

    def dump(self) -> str:
        """Return the results as JSON, which `load_run` reads."""
        return json.dumps({"schema": SCHEMA, **attrs.asdict(self)}, indent=1) + "\n"


def load_run(text: str) -> Run:
    """Parse the JSON of `Run.dump`.

    Raises:
        ResultsError: `text` is something else, or was written by another version of the suite.
    """
    try:
        fields = json.loads(text)
        schema = fields.pop("schema")
    except (ValueError, KeyError, AttributeError, TypeError) as exc:
        raise ResultsError("not a file of benchmark results") from exc
    if schema != SCHEMA:
        raise ResultsError(f"results of schema {schema}; this suite reads schema {SCHEMA}")
    try:
        skipped = tuple(Skipped(**one) for one in fields.pop("skipped"))
        cases = tuple(SkippedCase(**one) for one in fields.pop("skipped_cases", ()))
        samples = tuple(_load_samples(fields.pop("samples")))
        return Run(skipped=skipped, skipped_cases=cases, samples=samples, **fields)
    except (KeyError, TypeError, AttributeError) as exc:
        raise ResultsError(f"damaged benchmark results: {exc}") from exc


def read_run(path: Path) -> Run:
    """Read a file.

    Raises:
        ResultsError: see `load_run`. The message names the file.
        OSError: the file cannot be read.
    """
    try:
        return load_run(path.read_text("utf-8"))
    except ResultsError as exc:
        raise ResultsError(f"{path}: {exc}") from exc


def _load_samples(items: Iterable[dict[str, Any]]) -> Iterable[Sample]:
    for item in items:
        usage = {role: Usage(**used) for role, used in item.pop("usage").items()}
        yield Sample(usage=usage, **item)
