"""Test the management API of a running relay with Schemathesis, from the description that the relay serves.

``nox -s schema`` runs this in an environment of its own, because Schemathesis is also a plugin of pytest. Options
that this program does not have go to ``schemathesis run``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
#: How long a program may take to do what it is told (seconds).
PATIENCE = 60
_PORT = re.compile(r"management\.listening: .* address=127\.0\.0\.1:(\d+)")


@contextlib.contextmanager
def running_relay(state: Path, log: Path) -> Iterator[str]:
    """Run a relay with a free port for its management API. Gives the URL.

    Raises:
        RuntimeError: it did not start, or did not end as it should.
    """
    command = [sys.executable, "-m", "hybridrelay", "relay", "--state", str(state), "--host", "127.0.0.1"]
    command += ["--ports", "probe=off,control=off,data=off,https=off,http=0", "--management", "127.0.0.1:0"]
    with log.open("wb") as written, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=written) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline().startswith(b"ready "):
                raise RuntimeError(f"the relay did not start:\n{log.read_text()}")
            yield f"http://127.0.0.1:{_logged_port(log)}"
            process.send_signal(signal.SIGTERM)
            if process.wait(PATIENCE) != 0:
                raise RuntimeError(f"the relay ended with {process.returncode}")
        finally:
            process.kill()


def _logged_port(log: Path) -> str:
    """The port of the management API, from the log, which is written a moment after the relay has started."""
    deadline = time.monotonic() + PATIENCE
    while (found := _PORT.search(log.read_text())) is None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the relay does not serve the management API:\n{log.read_text()}")
        time.sleep(0.05)
    return found[1]


def _put_example(url: str, token: str) -> None:
    """Create the hybrid connection that the examples of the description are about."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = json.dumps({"endpoints": ["relay.example.com"]}).encode()
    request = urllib.request.Request(f"{url}/v1/hybridConnections/orders", body, headers, method="PUT")
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        json.load(response)


def main() -> int:
    """Start a relay, test it, and check that it still works and has logged no error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-examples", type=int, default=5, help="requests for each operation and phase")
    parser.add_argument("--seed", default="1", help="of the generated requests (default: 1, always the same ones)")
    arguments, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as directory:
        state, log, token_file = Path(directory, "state"), Path(directory, "log"), Path(directory, "token")
        with running_relay(state, log) as url:
            create = [sys.executable, "-m", "hybridrelay", "tokens", "create", "schema", "--role", "admin"]
            subprocess.run([*create, "--out", str(token_file), "--state", str(state)], check=True, timeout=PATIENCE)
            token = token_file.read_text().strip()
            test = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml")]
            test += ["run", f"{url}/openapi.json", "--max-examples", str(arguments.max_examples)]
            test += ["--seed", arguments.seed, *rest]
            _put_example(url, token)
            environment = os.environ | {"HYBRIDRELAY_TOKEN": token, "SCHEMATHESIS_HOOKS": str(HERE / "hooks.py")}
            failed = subprocess.run(test, env=environment, cwd=directory, check=False).returncode
            request = urllib.request.Request(f"{url}/v1/relay", headers={"Authorization": f"Bearer {token}"})
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                json.load(response)
        errors = [line for line in log.read_text().splitlines() if " error " in line or "Traceback" in line]
    for line in errors:
        print(line)
    return failed or bool(errors)


if __name__ == "__main__":
    sys.exit(main())
