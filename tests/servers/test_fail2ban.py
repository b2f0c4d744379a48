"""fail2ban itself, with the filter in docs/fail2ban, on the log of a relay."""

from __future__ import annotations

import http.client
import re
import shutil
from pathlib import Path

from ..deployments import Deployment
from .conftest import find, private_directory, run

DIRECTORY = Path(__file__).parents[2] / "docs" / "fail2ban"
CONFIGURATION = Path("/etc/fail2ban")


def test_it_finds_refused_keys_in_the_log_of_a_relay() -> None:
    command = find("fail2ban-regex")
    with private_directory() as directory, Deployment(directory) as deployment:
        relay = deployment.start_relay("--management", "127.0.0.1:0")
        published = deployment.create("orders", ("127.0.0.1", 9))
        state = ("--state", deployment.state)
        rule = ("--rule", "connector", "--key", "primary")
        assert deployment.run("keys", "regenerate", "orders", *rule, *state).returncode == 0
        assert deployment.run("connector", "--connection-string-file", published.connector).returncode != 0
        relay.wait_for_line(r"token\.(invalid|refused)", where="err")
        address = relay.wait_for_line(r"management\.listening.* address=127\.0\.0\.1:(\d+)", where="err")
        client = http.client.HTTPConnection("127.0.0.1", int(address[1]), timeout=30)
        client.request("GET", "/v1/relay", headers={"Authorization": "Bearer hrm_wrong"})
        assert client.getresponse().status == 401
        client.close()
        relay.wait_for_line(r"management\.authentication-failed", where="err")
        log = directory / "relay.log"
        log.write_text(relay.err + "\n")
        # Beside its own files, because the filter includes one of them.
        shutil.copytree(CONFIGURATION / "filter.d", directory / "filter.d", ignore_dangling_symlinks=True)
        shutil.copy(DIRECTORY / "filter.d" / "hybridrelay.conf", directory / "filter.d" / "hybridrelay.conf")
        shutil.copy(CONFIGURATION / "fail2ban.conf", directory)
        found = run([command, "-v", "-c", directory, log, "hybridrelay"])
    expected = len(re.findall(r" (?:token\.(?:invalid|refused)|management\.authentication-failed): ", relay.err))
    assert expected >= 2
    assert f"{expected} matched" in found, found
    assert len(re.findall(r"^\|\s+127\.0\.0\.1 ", found, re.MULTILINE)) == expected, found
