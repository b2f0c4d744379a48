"""One relay for each test that wants one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio

from .deployment import Deployment, deploy

# The benchmark suite stands beside the tests, and has peers that misbehave. Behind everything that is installed, as
# in tests/benchmarks.
_CHECKOUT = str(Path(__file__).parents[2])
if _CHECKOUT not in sys.path:
    sys.path.append(_CHECKOUT)


@pytest.fixture
async def deployment(nursery: trio.Nursery, tmp_path: Path) -> Deployment:
    """A relay that runs until the test ends."""
    return await deploy(nursery, tmp_path / "state")
