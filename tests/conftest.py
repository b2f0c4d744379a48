"""Hypothesis profiles: the same hundreds of examples in every ordinary run, thousands of fresh ones when thorough.

And a home for what programs remember between runs, so that tests leave nothing in that of the user.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("default", max_examples=300, stateful_step_count=80, deadline=None, derandomize=True)
settings.register_profile(
    "thorough", max_examples=5000, stateful_step_count=150, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.register_profile("quick", settings.get_profile("default"), max_examples=50)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Processes that tests start inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state-home")))
        patch.delenv("STATE_DIRECTORY", raising=False)
        yield


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs like this. The programs respect it, and tests send them SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
