"""The environment of the programs that this one starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from ._defaults import CLAIM_CODE_VARIABLE, PROXY_PASSWORD_VARIABLE
from .security.loading import ENVIRONMENT_VARIABLE

__all__ = ["SECRET_VARIABLES", "without_secrets"]

#: The variables with secrets of this program.
SECRET_VARIABLES: Final = (ENVIRONMENT_VARIABLE, PROXY_PASSWORD_VARIABLE, CLAIM_CODE_VARIABLE)


def without_secrets(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment for a program that this one starts: everything but `SECRET_VARIABLES`, which no other
    program needs, and which some print, store or pass on.
    """
    return {name: value for name, value in environ.items() if name not in SECRET_VARIABLES}
