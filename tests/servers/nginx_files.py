"""The configuration of an nginx that serves a test; also one that a page of the docs shows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["documented_server", "nginx_command"]

_DOCS = Path(__file__).parents[2] / "docs"
_NGINX = """
daemon off;
master_process off;
pid {directory}/pid;
error_log stderr;
events {{ }}
http {{
  access_log {access_log};
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
{server}
}}
"""


def nginx_command(program: str, directory: Path, server: str, *, access_log: str = "off") -> list[str | Path]:
    """Write a configuration, and return the command that runs nginx with it.

    Args:
        program: nginx.
        directory: for its files.
        server: the server block.
        access_log: the name of its log in the directory, or ``off``.
    """
    log = access_log if access_log == "off" else str(directory / access_log)
    file = directory / "nginx.conf"
    file.write_text(_NGINX.format(directory=directory, server=server, access_log=log))
    return [program, "-p", directory, "-e", "stderr", "-c", file]


def documented_server(page: str, changes: Mapping[str, str]) -> str:
    """Return the server block of a page of the docs.

    Args:
        page: the name of the page.
        changes: what stands in the place of the examples, by regular expression. Each has to occur once.
    """
    found = re.search(r"<!-- nginx -->\n```nginx\n(.*?)```", (_DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"docs/{page} has the configuration"
    server = found[1]
    for pattern, replacement in changes.items():
        server, count = re.subn(pattern, replacement, server)
        assert count == 1, pattern
    return server
