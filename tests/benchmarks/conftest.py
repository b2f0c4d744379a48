"""The suite stands beside the tests, in the checkout. Behind everything that is installed, so that this makes nothing
else of the checkout importable that is."""

from __future__ import annotations

import sys
from pathlib import Path

_CHECKOUT = str(Path(__file__).parents[2])
if _CHECKOUT not in sys.path:
    sys.path.append(_CHECKOUT)
