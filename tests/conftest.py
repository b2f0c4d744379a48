"""Settings and fixtures of all tests.

There are Hypothesis profiles: an ordinary run uses the same hundred examples of each property every time, a thorough
one thousands of new ones. Programs store their state in a temporary directory, so that tests do not change that of
the user. A failed test does not make later tests fail. At the end, a run prints the cause of each failure in a few
lines.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import warnings
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from .failures import describe_failure

settings.register_profile("default", max_examples=100, stateful_step_count=80, deadline=None, derandomize=True)
settings.register_profile(
    "thorough", max_examples=5000, stateful_step_count=150, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.register_profile("quick", settings.get_profile("default"), max_examples=50)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

_HAS_FAILED = pytest.StashKey[bool]()
_CAUSE = "cause"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[object]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_HAS_FAILED] = True
        if call.excinfo is not None:
            report.user_properties.append((_CAUSE, describe_failure(call.excinfo.value)))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None]:
    """Print the causes directly before the short summary. `.ci/run` repeats this section at the end of its output."""
    yield
    reports = [*terminalreporter.getreports("error"), *terminalreporter.getreports("failed")]
    if reports:
        terminalreporter.section("causes of the failures")
    for report in reports:
        text = dict(report.user_properties).get(_CAUSE) if isinstance(report, pytest.TestReport) else None
        if text is None:  # a module could not be imported, or a worker has crashed
            text = "\n".join(report.longreprtext.splitlines()[-10:])
        when = "" if report.when in ("call", None) else f" ({report.when})"
        terminalreporter.write_line(f"{report.nodeid}{when}")
        terminalreporter.write_line("\n".join(f"    {line}" for line in str(text).splitlines()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Close the resources that a failed test has left open.

    The test's traceback keeps sockets and other resources open. When the garbage collector finds one, there is a
    warning, and warnings are errors, so an unrelated later test would fail.
    """
    result = yield
    if item.stash.get(_HAS_FAILED, False):
        for name in ("last_exc", "last_type", "last_value", "last_traceback"):  # pytest also keeps the traceback here
            vars(sys).pop(name, None)
        with warnings.catch_warnings(action="ignore"):
            gc.collect()
    return result


@pytest.fixture(scope="session", autouse=True)
def no_machine_policy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let this process have no machine-wide policy, whatever the machine has. It applies to processes of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hybridrelay.policy.machine.DIRECTORY", tmp_path_factory.mktemp("machine") / "policy.d")
        yield


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Set a directory for the state of programs, in an environment variable that the processes of tests inherit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state-home")))
        patch.delenv("STATE_DIRECTORY", raising=False)
        yield


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs with SIGINT ignored. Programs would keep ignoring it, but tests send them SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
