"""The relay's configuration file: the names of the options, and the command line wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridrelay.cli.commands.relay import make_config
from hybridrelay.cli.config_file import apply_config_file
from hybridrelay.cli.parser import build_parser
from hybridrelay.errors import ConfigurationError
from hybridrelay.relay import Binding, RelayConfig


def _config(tmp_path: Path, text: str, *arguments: str) -> RelayConfig:
    path = tmp_path / "relay.toml"
    path.write_text(text)
    args = build_parser().parse_args(["relay", "--config", str(path), *arguments])
    apply_config_file(args, path)
    return make_config(args)


WHOLE = """
state = "state"
host = ["192.0.2.1", "[::1]"]
public-ports = "http=off,https=443"
tls-certificate = "/etc/chain.pem"
tls-key = "key.pem"
log-level = "DEBUG"
log-json = true
[ports]
probe = 9350
control = "off"
data = "off"
http = "127.0.0.1:8080"
https = "0"
"""


def test_everything_in_it(tmp_path: Path) -> None:
    config = _config(tmp_path, WHOLE)

    assert config.state_dir == tmp_path / "state"
    assert config.bindings == {
        "probe": (Binding("192.0.2.1", 9350), Binding("::1", 9350)),
        "http": (Binding("127.0.0.1", 8080),),
        "https": (Binding("192.0.2.1", 0), Binding("::1", 0)),
    }
    assert config.public_ports == {"http": None, "https": 443}
    assert config.tls_certificate == Path("/etc/chain.pem")
    assert config.tls_key == tmp_path / "key.pem"


def test_the_command_line_wins(tmp_path: Path) -> None:
    config = _config(tmp_path, WHOLE, "--state", "other", "--host", "::1", "--ports", "data=1")

    assert config.state_dir == Path("other")
    assert config.bindings["data"] == (Binding("::1", 1),)
    assert config.bindings["http"] == (Binding("::1", 80),), "--ports replaces the whole of them"


def test_the_log_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_text(WHOLE)
    quiet = build_parser().parse_args(["--log-level", "error", "relay"])
    open_ = build_parser().parse_args(["relay"])
    for args in (quiet, open_):
        apply_config_file(args, path)

    assert (quiet.log_level, quiet.log_json) == ("error", True)
    assert (open_.log_level, open_.log_json) == ("debug", True)


def test_ports_as_on_the_command_line(tmp_path: Path) -> None:
    config = _config(tmp_path, 'state = "s"\nports = "probe=off,control=off,data=off,https=off,http=[::1]:1"\n')

    assert config.bindings == {"http": (Binding("::1", 1),)}


@pytest.mark.parametrize(
    ("text", "says", "remedy"),
    [
        ("state = ", "is not TOML", None),
        ('prots = "probe=1"', "unknown key 'prots'", "did you mean ports?"),
        ('tls_key = "k"', "unknown key 'tls_key'", "did you mean tls-key?"),
        ("frobnicate = 1", "unknown key 'frobnicate'", "known are: state, host"),
        ("state = 1", "state: expected a text", None),
        ("ports = 1", "ports: expected a text", None),
        ("[ports]\nprobe = true", "ports: expected numbers", None),
        ("[ports]\nprobe = 70000", "ports: a port is a number", None),
        ('host = "a b"', "host: not a valid host name", None),
        ('log-level = "loud"', "log-level: expected one of", None),
        ('log-json = "yes"', "log-json: expected true or false", None),
    ],
)
def test_what_is_wrong_in_it(tmp_path: Path, text: str, says: str, remedy: str | None) -> None:
    with pytest.raises(ConfigurationError) as caught:
        _config(tmp_path, text)

    assert says in str(caught.value)
    assert "relay.toml" in str(caught.value)
    assert remedy is None or remedy in (caught.value.remedy or "")


def test_a_missing_file(tmp_path: Path) -> None:
    args = build_parser().parse_args(["relay"])
    with pytest.raises(ConfigurationError, match="cannot read the configuration file"):
        apply_config_file(args, tmp_path / "missing.toml")
