"""The keys of a policy: one table, with which files, the Windows registry and managed preferences are read, and from
which templates are made. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import attrs

from .._value import Value

__all__ = ["KEYS", "Key", "Kind"]


class Kind(enum.Enum):
    """The type of a key's value."""

    #: True or false. In the registry, a REG_DWORD 1 or 0.
    FLAG = "flag"
    #: A number from 0 to 1,000,000. In the registry, a REG_DWORD.
    COUNT = "count"
    #: A list of strings. In the registry, a subkey with a REG_SZ value for each.
    LIST = "list"


@attrs.frozen
class Key(Value):
    """One key."""

    name: str
    kind: Kind
    #: The name of its rule in metrics, and in the field ``rule`` of events.
    slug: str
    #: One line for people.
    title: str
    #: Sentences for people: what the value means, and what happens without the key.
    text: str
    #: A value for templates, as it is written in TOML.
    example: str


_HOST = (
    "A host is a name, *.domain for all names below a domain, an address, a network such as 10.1.0.0/16 or "
    "[2001:db8::/32], or * for every host. A port is a number, a range such as 8000-8999, or *. A Unix socket is "
    "unix:/path, unix:/directory/* for all below a directory, or unix:* for all."
)

_ALL = (
    Key(
        "AllowHybridConnections",
        Kind.FLAG,
        "allow-hybrid-connections",
        "Allow hybrid connections",
        "false: no hybrid connection can be created or used on this machine. Without this key, they are allowed.",
        "true",
    ),
    Key(
        "AllowedTargets",
        Kind.LIST,
        "allowed-targets",
        "Allowed targets",
        "The targets to which connectors may connect, as host:port or unix:/path. With this key, no other target is "
        f"allowed. {_HOST} An entry with an address or a network allows a target by the address to which its name "
        "resolves.",
        '["db.corp.example:5432", "10.20.0.0/16:443"]',
    ),
    Key(
        "DeniedTargets",
        Kind.LIST,
        "denied-targets",
        "Denied targets",
        "Targets to which connectors may not connect, even if they are allowed elsewhere, as host:port or "
        "unix:/path. A network denies every address in it, whatever name leads there. A name denies this name only, "
        "and not its addresses. *:* denies Unix sockets, too.",
        '["*:22", "169.254.0.0/16:*", "127.0.0.0/8:*", "[::1]:*", "unix:*"]',
    ),
    Key(
        "AllowedRelays",
        Kind.LIST,
        "allowed-relays",
        "Allowed relays",
        "The relays that may be used: host names, *.domain, addresses or networks, or pins (sha256:...). With this "
        "key, every relay of a connection string must be allowed by its host, or the string must have pins, and all "
        "of them must be allowed.",
        '["relay.example.com"]',
    ),
    Key(
        "AllowedAuthorities",
        Kind.LIST,
        "allowed-authorities",
        "Allowed authorities",
        "The authorities whose hybrid connections may be used: the SHA-256 of each authority's certificate in "
        "hexadecimal, which 'hybridrelay policy check --connection-string-file' shows.",
        '["sha256:0000000000000000000000000000000000000000000000000000000000000000"]',
    ),
    Key(
        "DeniedIdentities",
        Kind.LIST,
        "denied-identities",
        "Denied identities",
        "Applications that connectors do not admit: labels or serials, as in a deny list.",
        '["reporting"]',
    ),
    Key(
        "MaxStreams",
        Kind.COUNT,
        "max-streams",
        "Maximum number of streams",
        "How many streams each connector may have open at the same time.",
        "1000",
    ),
    Key(
        "MaxStreamsPerLabel",
        Kind.COUNT,
        "max-streams-per-label",
        "Maximum number of streams of each label",
        "How many streams all applications with the same label may have open at the same time at each connector.",
        "100",
    ),
    Key(
        "AllowedHours",
        Kind.LIST,
        "allowed-hours",
        "Allowed hours",
        "When connectors serve applications, in the local time of the machine: days and hours such as "
        "Mon-Fri 08:00-18:00, or daily 06:00-22:00. Open sessions are closed when the hours end.",
        '["Mon-Fri 07:00-19:00", "Sat 08:00-12:00"]',
    ),
    Key(
        "RequireAudit",
        Kind.LIST,
        "require-audit",
        "Required sinks of the audit log",
        "The kinds of sinks without which connectors open no stream: file (--audit-dir), journal, syslog (over TCP "
        "or TLS) or eventlog. New streams are refused while one of them is missing or cannot be written.",
        '["file"]',
    ),
    Key(
        "AuditWitness",
        Kind.LIST,
        "audit-witness",
        "Relays that keep checkpoints of the audit log",
        "The relays that have to confirm that they keep the checkpoints of the audit files (--audit-dir) of a "
        "connector: host names, *.domain, or addresses. A connector has to use at least one of them, and each that "
        "it uses has to confirm within 5 minutes. Otherwise the connector opens no streams.",
        '["relay.example.com"]',
    ),
    Key(
        "AllowUdp",
        Kind.FLAG,
        "allow-udp",
        "Allow datagrams",
        "true: connectors may open flows of datagrams (UDP) to targets that are written with /udp or /tcp+udp. "
        "Without this key, they refuse them.",
        "true",
    ),
    Key(
        "AllowedForwardAddresses",
        Kind.LIST,
        "allowed-forward-addresses",
        "Allowed addresses of forward",
        "The local addresses and ports at which 'hybridrelay forward' may listen, as address:port, or unix:/path "
        "(unix:* for every Unix socket). For port 0, the port that the system has chosen is checked.",
        '["127.0.0.0/8:*", "[::1]:*", "unix:*"]',
    ),
    Key(
        "AllowRun",
        Kind.FLAG,
        "allow-run",
        "Allow 'hybridrelay run'",
        "false: no program can be started with 'hybridrelay run'. Without this key, it is allowed.",
        "false",
    ),
)

#: All keys by name, in the order in which they are shown.
KEYS: Mapping[str, Key] = {key.name: key for key in _ALL}
