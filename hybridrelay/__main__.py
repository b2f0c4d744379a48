"""``python -m hybridrelay``: the same as the command ``hybridrelay``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
