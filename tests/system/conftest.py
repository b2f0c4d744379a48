from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent))

from deployment import Deployment, deploy


@pytest.fixture
async def deployment(nursery: trio.Nursery, tmp_path: Path) -> Deployment:
    """A relay that runs until the test ends."""
    return await deploy(nursery, tmp_path / "state")
