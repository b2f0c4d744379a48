"""Hypothesis profiles: the same hundreds of examples in every ordinary run, thousands of fresh ones when thorough."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("default", max_examples=300, stateful_step_count=80, deadline=None, derandomize=True)
settings.register_profile(
    "thorough", max_examples=5000, stateful_step_count=150, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
