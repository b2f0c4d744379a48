from __future__ import annotations

from pathlib import Path

import pytest
import trio

from .deployment import Deployment, deploy


@pytest.fixture
async def deployment(nursery: trio.Nursery, tmp_path: Path) -> Deployment:
    """A relay that runs until the test ends."""
    return await deploy(nursery, tmp_path / "state")
