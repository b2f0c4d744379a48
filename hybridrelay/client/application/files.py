"""The files in /etc that an application sees instead of the machine's own. Pure.

Names that are published are looked up in the hosts file, which every resolver reads (glibc, musl, Go, c-ares). All
other lines of the machine's own files stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["hosts_file", "nsswitch_file", "resolver_file"]

#: The lines of resolv.conf that say how names are completed. They apply to published names as well: an application
#: that looks up `intranet` may mean `intranet.corp.example`.
_KEPT = ("search", "domain", "options")


def hosts_file(original: str, names: Mapping[str, str]) -> str:
    """Return a hosts file (hosts(5)) with additional names.

    A published name is removed from the other lines, because glibc, with `multi on` in host.conf, would return the
    addresses of all lines.

    Args:
        original: the machine's file; empty if there is none.
        names: name, in lower case, to address.
    """
    lines = [f"{address}\t{name}\n" for name, address in names.items()]
    for line in original.splitlines(keepends=True):
        content, sign, comment = line.partition("#")
        fields = content.split()
        kept = [one for one in fields[1:] if one.lower().removesuffix(".") not in names]
        if len(kept) == len(fields[1:]):
            lines.append(line if line.endswith("\n") else f"{line}\n")
        elif kept:
            lines.append(f"{fields[0]}\t{' '.join(kept)}{f' {sign}{comment.rstrip()}' if sign else ''}\n")
    if not original.strip():
        lines += ["127.0.0.1\tlocalhost\n", "::1\tlocalhost\n"]
    return "".join(lines)


def nsswitch_file(original: str, *, alone: bool) -> str:
    """Return a name service configuration (nsswitch.conf(5)) that looks into the hosts file first.

    With ``resolve`` before ``files``, which systemd recommends, glibc would ask the resolver of the machine, which
    does not know the application's hosts file.

    Args:
        original: the machine's file; empty if there is none.
        alone: whether nothing but the hosts file and DNS is to be used.
    """
    lines = []
    found = False
    for line in original.splitlines():
        database, colon, rest = line.partition("#")[0].partition(":")
        if colon and database.strip() == "hosts":
            found = True
            lines.append(f"hosts: {'files dns' if alone else _files_first(rest)}")
        else:
            lines.append(line)
    if not found:
        lines.append("hosts: files dns")
    return "\n".join(lines) + "\n"


def _files_first(services: str) -> str:
    """Move ``files`` to the beginning of a list of services, without the actions that belonged to it."""
    words = services.replace("[", " [").split()
    kept: list[str] = []
    skips_actions = False
    inside = False  # inside an action that contains spaces
    for word in words:
        is_action = inside or word.startswith("[")
        inside = is_action and not word.endswith("]")
        if not is_action:
            skips_actions = word == "files"
        if not skips_actions:
            kept.append(word)
    return " ".join(["files", *kept])


def resolver_file(original: str, nameserver: str) -> str:
    """Return a resolver configuration (resolv.conf(5)) with one name server, and the machine's search list.

    Args:
        original: the machine's file; empty if there is none.
        nameserver: an IP address.
    """
    kept = [line for line in original.splitlines() if line.split() and line.split()[0] in _KEPT]
    return "\n".join([f"nameserver {nameserver}", *kept]) + "\n"
