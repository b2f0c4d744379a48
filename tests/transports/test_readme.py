"""The example in transports/README.md is a working transport."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from hybridrelay.abc import Transport
from hybridrelay.testing import transport_checks

README = Path(__file__).parents[2] / "transports" / "README.md"


def example() -> Transport:
    code = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)[0]
    namespace: dict[str, Transport] = {}
    exec(compile(code, str(README), "exec"), namespace)
    return namespace["transport"]


@pytest.mark.parametrize("check", [pytest.param(check, id=name) for name, check in transport_checks(example())])
async def test_the_transport_in_the_readme_passes_the_conformance_suite(check: Callable[[], Awaitable[None]]) -> None:
    await check()
