"""The configuration of nginx that a page of the docs shows, for a test that runs it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["documented_nginx"]

_DOCS = Path(__file__).parents[2] / "docs"
_NGINX = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
{server}
}}
"""


def documented_nginx(page: str, folder: Path, changes: Mapping[str, str]) -> str:
    """Return the whole configuration, with the server block of a page of the docs.

    Args:
        page: the name of the page.
        folder: for the files of nginx.
        changes: what stands in the place of the examples, by regular expression. Each has to occur once.
    """
    found = re.search(r"<!-- nginx -->\n```nginx\n(.*?)```", (_DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"docs/{page} has the configuration"
    server = found[1]
    for pattern, replacement in changes.items():
        server, count = re.subn(pattern, replacement, server)
        assert count == 1, pattern
    return _NGINX.format(folder=folder, server=server)
