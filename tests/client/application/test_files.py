"""The files in /etc that an application sees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.client.application.files import hosts_file, nsswitch_file, resolver_file

NAMES = {"sql01.corp.example": "127.64.0.1"}


def test_names_come_first_and_other_lines_stay() -> None:
    original = "# the machine\n127.0.0.1\tlocalhost\n\n10.0.0.1 db # old\n"
    assert hosts_file(original, NAMES) == "127.64.0.1\tsql01.corp.example\n" + original


def test_a_published_name_is_in_no_other_line() -> None:
    original = "10.0.0.1 SQL01.corp.example\n10.0.0.2 other sql01.corp.example. third # why\n"
    assert hosts_file(original, NAMES) == "127.64.0.1\tsql01.corp.example\n10.0.0.2\tother third # why\n"


def test_a_missing_file_has_localhost() -> None:
    assert hosts_file("", NAMES).splitlines()[1:] == ["127.0.0.1\tlocalhost", "::1\tlocalhost"]


@given(st.text(alphabet="a1.# \t\n:sql01", max_size=200))
def test_any_file_keeps_its_other_names(original: str) -> None:
    def names(text: str) -> set[str]:
        return {name for line in text.splitlines() for name in line.partition("#")[0].split()[1:]}

    wanted = {name for name in names(original) if name.lower().removesuffix(".") not in NAMES}
    found = names(hosts_file(original, NAMES))
    assert found - {"localhost", "sql01.corp.example"} == wanted - {"localhost"}


@pytest.mark.parametrize(
    ("services", "expected"),
    [
        ("files dns", "files dns"),
        ("resolve [!UNAVAIL=return] files myhostname dns", "files resolve [!UNAVAIL=return] myhostname dns"),
        (
            "mymachines resolve[!UNAVAIL=return] files [NOTFOUND=return] dns",
            "files mymachines resolve [!UNAVAIL=return] dns",
        ),
        ("dns [ NOTFOUND = return ] files", "files dns [ NOTFOUND = return ]"),
        ("dns", "files dns"),
    ],
)
def test_the_hosts_file_is_asked_first(services: str, expected: str) -> None:
    original = f"passwd: files\nhosts:   {services}\n"
    assert nsswitch_file(original, alone=False) == f"passwd: files\nhosts: {expected}\n"
    assert nsswitch_file(original, alone=True) == "passwd: files\nhosts: files dns\n"


def test_a_file_without_hosts_gets_them() -> None:
    assert nsswitch_file("# hosts: dns\n", alone=False) == "# hosts: dns\nhosts: files dns\n"


def test_the_search_list_stays() -> None:
    original = "# by hand\nnameserver 10.0.0.2\nsearch corp.example\noptions ndots:2\nsortlist 1.2.3.4\n"
    assert resolver_file(original, "127.0.0.53") == "nameserver 127.0.0.53\nsearch corp.example\noptions ndots:2\n"
