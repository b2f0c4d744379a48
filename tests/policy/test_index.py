"""What an index finds is what looking at every entry finds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.policy.index import FirstRanges, LocalIndex, RelayIndex, TargetIndex
from hybridrelay.policy.toml_files import parse_policy_file
from hybridrelay.policy.values import address_of, parse_local, parse_relay, parse_target
from hybridrelay.security import HostPort

#: Few hosts and ports, so that entries overlap, and edges are met.
NAMES = ["db.corp.example", "corp.example", "a.db.corp.example", "DB.corp.example.", "db", "localhost"]
ADDRESSES = [
    "10.1.2.3", "10.1.255.255", "127.0.0.1", "0.0.0.0", "::1", "::", "2001:db8::1", "2001:db9::1", "fe80::1%eth0",
    "::ffff:10.1.2.3", "::ffff:0.0.0.0", "255.255.255.255",
]  # fmt: skip
HOSTS = ["*", "*.corp.example", "*.example", "*.db.corp.example", "db.corp.example", "db", "localhost"]
NETWORKS = [
    "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "0.0.0.0/0", "0.0.0.0", "127.0.0.0/8", "127.0.0.1",
    "[::/0]", "[::1]", "[::]", "[2001:db8::/32]", "[2001:db8::1]", "[fe80::/10]",
]  # fmt: skip
PORTS = [1, 2, 79, 80, 81, 443, 65534, 65535]

ports = st.sampled_from(PORTS)
port_patterns = st.just("*") | ports.map(str) | st.tuples(ports, ports).map(lambda ends: f"{min(ends)}-{max(ends)}")
targets = st.builds(lambda host, port: f"{host}:{port}", st.sampled_from(HOSTS + NETWORKS), port_patterns)
hosts = st.sampled_from(NAMES + ADDRESSES)


@given(st.lists(targets, max_size=12), hosts, ports, st.none() | st.sampled_from(ADDRESSES))
def test_an_index_of_targets_decides_like_its_patterns(
    texts: list[str], host: str, port: int, resolved: str | None
) -> None:
    patterns, target = [parse_target(text) for text in texts], HostPort(host, port)
    address = address_of(resolved or host)
    index = TargetIndex(patterns)

    about = [number for number, one in enumerate(patterns) if one.is_about(target, address)]
    assert index.first_about(host, port, address) == min(about, default=None)
    assert index.permits(host, port, address) is any(one.permits(target, address) for one in patterns)


PATHS = ["/run/a", "/run/a/b", "/run/db/.s.PGSQL.5432", "/run/db", "/x"]
path_patterns = st.sampled_from(
    ["unix:*", "unix:/run/*", "unix:/run/db/*", "unix:/run/a/*", *(f"unix:{p}" for p in PATHS)]
)


@given(st.lists(targets | path_patterns, max_size=12), st.sampled_from(PATHS), st.none() | st.sampled_from(PATHS))
def test_an_index_of_unix_sockets_decides_like_its_patterns(
    texts: list[str], path: str, resolved: str | None
) -> None:
    patterns = [parse_target(text) for text in texts]
    index = TargetIndex(patterns)
    paths = {path, resolved or path}

    about = [number for number, one in enumerate(patterns) if one.is_about_path(paths)]
    assert index.first_about_path(paths) == min(about, default=None)
    assert index.permits_path(resolved) is any(one.permits_path(resolved) for one in patterns)


@given(st.lists(path_patterns, max_size=5), hosts, ports)
def test_unix_sockets_are_not_hosts(texts: list[str], host: str, port: int) -> None:
    index = TargetIndex(map(parse_target, texts))
    assert index.first_about(host, port, address_of(host)) is None
    assert not index.permits(host, port, address_of(host))


@given(st.lists(targets | st.sampled_from(["unix:*", "unix:/run/a", "unix:/run/b"]), max_size=12), hosts, ports)
def test_an_index_of_local_addresses_decides_like_its_patterns(texts: list[str], host: str, port: int) -> None:
    patterns = [parse_local(text) for text in texts]
    index = LocalIndex(patterns)

    assert index.permits(host, port) is any(one.permits(HostPort(host, port)) for one in patterns)
    for path in ("/run/a", "/run/b", "/run/c"):
        assert index.permits_path(path) is any(one.permits_path(path) for one in patterns)


PIN = "sha256:" + "A" * 43 + "="


@given(st.lists(st.sampled_from([*HOSTS, *(one.strip("[]") for one in NETWORKS), PIN]), max_size=12), hosts)
def test_an_index_of_relays_permits_what_one_of_its_patterns_permits(texts: list[str], host: str) -> None:
    patterns = [parse_relay(text) for text in texts if text != "*"]
    index = RelayIndex(patterns)

    assert index.permits(host) is any(RelayIndex([one]).permits(host) for one in patterns)
    assert index.pins == {one.pin for one in patterns if one.pin}


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)).map(sorted), max_size=10))
def test_the_first_range_that_contains_a_number_is_found(ends: list[list[int]]) -> None:
    index = FirstRanges((rank, first, last) for rank, (first, last) in enumerate(ends))
    for number in range(-1, 23):
        found = [rank for rank, (first, last) in enumerate(ends) if first <= number <= last]
        assert index.first(number) == min(found, default=None)
    assert index.least() == min(range(len(ends)), default=None)
    for low in range(21):
        for high in range(low, 21):
            covered = all(index.first(number) is not None for number in range(low, high + 1))
            rank = index.covering(low, high)
            assert (rank is not None) is covered


@pytest.mark.parametrize("key", ["AllowedTargets", "DeniedTargets"])
def test_equal_hosts_with_many_ports(key: str) -> None:
    """Ten thousand entries for one host are as quick as one, and the first that fits is named."""
    texts = [f"'10.0.0.1:{port}-{port + 50}'," for port in range(1, 10_001)]
    (file,) = [parse_policy_file("x.toml", "\n".join([f"{key} = [", *texts, "]"]))]
    index = file.allowed_targets if key == "AllowedTargets" else file.denied_targets
    assert index is not None
    assert index.index.first_about("10.0.0.1", 5000, address_of("10.0.0.1")) == 4949
    assert index.index.first_about("10.0.0.1", 60_000, address_of("10.0.0.1")) is None
