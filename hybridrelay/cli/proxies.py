"""The dialer that the proxy options ask for."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from .._defaults import PROXY_PASSWORD_VARIABLE
from .._text_files import read_text, strip_value
from ..abc import Dialer
from ..connectivity.proxies import ProxyDial, ProxySettings
from ..connectivity.proxies.settings import has_password
from ..errors import ConfigurationError
from ..security import Secret

logger = logging.getLogger("hybridrelay.cli")

#: A password and a line break, in UTF-16 perhaps; more is some other file.
_MAX_PASSWORD_BYTES = 1024


def make_dialer(args: argparse.Namespace) -> Dialer | None:
    """The dialer that the options ask for; None without such options, which means: as the environment says.

    Raises:
        ConfigurationError: they cannot be used; repeats no secret.
    """
    if args.proxy is None:
        if args.proxy_password_file is not None:
            raise ConfigurationError("--proxy-password-file is for --proxy", remedy="name the proxy with --proxy")
        return None
    if has_password(args.proxy):
        # Not repeated: arguments are visible to every user of the machine, and errors go to logs.
        raise ConfigurationError(
            "--proxy has a password in it, which every user of this machine can see",
            remedy=f"change it, and give the new one with --proxy-password-file or in {PROXY_PASSWORD_VARIABLE}",
        )
    settings = ProxySettings.explicit(args.proxy, password=_password(args.proxy_password_file, args.proxy))
    return Dialer(ProxyDial(settings))


def _password(file: Path | None, url: str) -> Secret | None:
    if file is None:
        text = os.environ.get(PROXY_PASSWORD_VARIABLE) if "@" in url else None
        return Secret(text.rstrip("\r\n")) if text else None
    text = read_text(file, what="the proxy's password file", limit=_MAX_PASSWORD_BYTES, secret=True).rstrip("\n")
    if not text or not text.isprintable():
        raise ConfigurationError(f"{file} does not hold a password alone", remedy="write it as the only line")
    if text != strip_value(text):
        # They may be part of it. The warning is for users who did not intend them.
        logger.warning("the password in %s has blanks or quotes around it, which are used as part of it", file)
    return Secret(text)
