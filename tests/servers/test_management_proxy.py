"""The management API and the dashboard behind a real nginx, configured as the docs say."""

from __future__ import annotations

import http.client
import json
import re
import ssl
from pathlib import Path
from urllib.parse import urlencode

from ..certificates import CertificateAuthority
from ..deployments import Deployment, Program, free_port, wait_for_port
from .conftest import find, private_directory
from .nginx_files import documented_server, nginx_command

DOCS = Path(__file__).parents[2] / "docs" / "management.md"
NAME = "relay-admin.example.com"


def documented_options() -> list[str]:
    found = re.search(r"--management-host \S+ --trusted-proxies \S+", DOCS.read_text(encoding="utf-8"))
    assert found, "docs/management.md has the command"
    return found[0].split()


def test_the_management_api_is_reached_behind_nginx_as_documented() -> None:
    server, port, api, authority = find("nginx"), free_port(), free_port(), CertificateAuthority()
    with private_directory() as directory, Deployment(directory) as deployment:
        deployment.start_relay("--management", f"127.0.0.1:{api}", *documented_options())
        token_file = directory / "ann.token"
        create = ("tokens", "create", "ann", "--role", "admin", "--out", token_file, "--state", deployment.state)
        with Program(deployment.command(*create)) as created:
            assert created.wait(60) == 0
        certificate, key = authority.issue(NAME)
        (directory / "certificate.pem").write_bytes(certificate)
        (directory / "key.pem").write_bytes(key)
        authority.write(directory / "ca.pem")
        changes = {
            r"listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            r"ssl_certificate .*;": f"ssl_certificate {directory}/certificate.pem;",
            r"ssl_certificate_key .*;": f"ssl_certificate_key {directory}/key.pem;",
            r"127\.0\.0\.1:9180": f"127.0.0.1:{api}",
        }
        command = nginx_command(server, directory, documented_server("management.md", changes))
        with Program(command, name="nginx") as nginx:
            wait_for_port(port, nginx)
            context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
            context.check_hostname = False  # it is dialed by its address
            token = token_file.read_text().strip()

            def ask(method: str, path: str, body: str = "", **headers: str) -> tuple[int, str, bytes]:
                """Return the status, the cookie, and the body."""
                connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=60)
                try:
                    connection.request(method, path, body or None, {"Host": NAME, **headers})
                    response = connection.getresponse()
                    return response.status, response.getheader("Set-Cookie", ""), response.read()
                finally:
                    connection.close()

            form = {
                "Content-Type": "application/x-www-form-urlencoded",
                "Origin": f"https://{NAME}",
                "X-Forwarded-For": "203.0.113.9",  # nginx appends its own client, which is also a trusted proxy
            }
            status, cookie, _ = ask("POST", "/login", urlencode({"token": token, "next": "/"}), **form)
            assert status == 303
            # The relay knows that the browser uses TLS.
            assert cookie.startswith("__Host-")
            assert "; Secure" in cookie
            assert ask("GET", "/connections", Cookie=cookie.partition(";")[0])[0] == 200
            status, _, body = ask("GET", "/v1/audit?operation=logIn", Authorization=f"Bearer {token}")
            assert status == 200
            (entry,) = json.loads(body)["value"]
            assert entry["peer"] == "203.0.113.9"
            assert ask("GET", "/v1/relay", Authorization=f"Bearer {token}", Host="other.example.com")[0] == 421
