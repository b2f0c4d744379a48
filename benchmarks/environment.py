"""Describes the machine of a run and the versions of programs, without names of the machine or its owner."""

from __future__ import annotations

import os
import platform
import re
import ssl
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from .limits import raise_descriptor_limit
from .programs import find
from .servers import find_postgresql

_PACKAGES = ("hybridrelay", "trio", "cryptography", "websockets", "trio-websocket")
#: The command that prints each program's version.
_COMMANDS = {
    "haproxy": ["haproxy", "-v"],
    "ssh": ["ssh", "-V"],
    "chisel": ["chisel", "--version"],
    "frp": ["frps", "--version"],
    "rathole": ["rathole", "--version"],
    "wstunnel": ["wstunnel", "--version"],
    "redis": ["redis-server", "--version"],
}
_VERSION = re.compile(r"\d+\.\d+[\w.-]*")
#: A version after that word. It is preferred, because rathole prints the time of its build first.
_NAMED_VERSION = re.compile(rf"version:?\s+({_VERSION.pattern})", re.IGNORECASE)


def describe_machine() -> dict[str, str]:
    """Return the properties of the machine on which the figures depend."""
    kilobytes = int(_first(Path("/proc/meminfo"), r"^MemTotal:\s+(\d+)") or 0)
    # Suffixes that distributions and hosting providers append to the version are irrelevant to speed.
    release = re.match(r"[\d.]+", platform.release())
    return {
        "processor": _first(Path("/proc/cpuinfo"), r"^model name\s*:\s*(.+)$") or platform.processor() or "unknown",
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": f"{kilobytes / 2**20:.1f} GiB",
        "system": f"{platform.system()} {release[0] if release else platform.release()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
        "descriptors": str(raise_descriptor_limit()),
        "load before": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown",
    }


def describe_versions() -> dict[str, str]:
    """Return the versions of the interpreter, of our packages, and of all programs that take part."""
    optimized = "--enable-optimizations" in (_config_args() or "")
    found = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "python build": f"{platform.python_compiler()}{', optimized' if optimized else ''}",
        "openssl": ssl.OPENSSL_VERSION,
    }
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    commands = dict(_COMMANDS)
    if (postgres := find_postgresql("postgres")) is not None:
        commands["postgresql"] = [postgres, "--version"]
    for name, (program, *arguments) in commands.items():
        if (path := find(program)) is not None:
            found[name] = _ask([path, *arguments])
    return found


def _config_args() -> str | None:
    import sysconfig

    found: str | None = sysconfig.get_config_var("CONFIG_ARGS")
    return found


def _ask(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return find_version(done.stdout + done.stderr)


def find_version(output: str) -> str:
    """Return the version in a program's output, or "unknown"."""
    match = _NAMED_VERSION.search(output) or _VERSION.search(output)
    return match[match.lastindex or 0] if match else "unknown"


def _first(file: Path, pattern: str) -> str | None:
    if sys.platform != "linux":
        return None
    match = re.search(pattern, file.read_text(), re.MULTILINE)
    return match[1] if match else None
