"""Defaults that the commands' options and the library's parameters share. Imports nothing, because --help shows
them."""

from __future__ import annotations

from typing import Final

#: How long streams wait for a lost data channel before they are reset (seconds).
RESUME_DEADLINE: Final = 25.0
#: How long a new stream of a client waits for a session (seconds): longer than a relay or a connector takes to
#: restart; database drivers give up after 15 to 60 s.
OPEN_PATIENCE: Final = 10.0
#: If the route in use is not the best, how soon the first search for a better one begins (seconds).
UPGRADE_INTERVAL: Final = 30.0
#: How long open connections may continue after SIGTERM (seconds). Service managers wait for ten seconds and more
#: before they kill a program.
GRACE: Final = 5.0
#: The environment variable with the password of the proxy.
PROXY_PASSWORD_VARIABLE: Final = "HYBRIDRELAY_PROXY_PASSWORD"  # noqa: S105
#: The environment variable with the name of the file with a token of the management API.
MANAGEMENT_TOKEN_FILE_VARIABLE: Final = "HYBRIDRELAY_MANAGEMENT_TOKEN_FILE"  # noqa: S105
#: The environment variable with the code of a claim.
CLAIM_CODE_VARIABLE: Final = "HYBRIDRELAY_CLAIM_CODE"
