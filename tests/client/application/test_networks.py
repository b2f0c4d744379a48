"""Which way is chosen, and what is said if there is none."""

from __future__ import annotations

import errno

import pytest

from hybridrelay.client.application.networks import Abilities, Network, Refusal, choose_setups
from hybridrelay.client.application.refusals import Facts, explain
from hybridrelay.errors import ConfigurationError
from hybridrelay.security import HostPort

NO = Refusal("step", "Operation not permitted", "change it")
NAME, LOW, LITERAL = HostPort("db.example", 5432), HostPort("intranet", 80), HostPort("10.1.2.3", 5432)


@pytest.mark.parametrize(
    ("published", "abilities", "network", "intercepts"),
    [
        (NAME, Abilities(), Network.HOST, False),
        (LOW, Abilities(), Network.HOST, True),
        (LITERAL, Abilities(), Network.HOST, True),
        (LOW, Abilities(first_port=0), Network.HOST, False),
        (NAME, Abilities(interception=NO), Network.HOST, False),
        (LOW, Abilities(interception=NO), Network.PRIVATE, False),
        (LITERAL, Abilities(interception=NO), Network.PRIVATE, False),
        (NAME, Abilities(network=NO), Network.HOST, False),
        (NAME, Abilities(mounts=NO, network=NO), Network.INTERCEPT, True),
        (LOW, Abilities(mounts=NO, network=NO), Network.INTERCEPT, True),
    ],
)
def test_the_first_way_that_works(
    published: HostPort, abilities: Abilities, network: Network, intercepts: bool
) -> None:
    setup, *others = choose_setups(None, [published], abilities)
    assert (setup.network, setup.intercepts) == (network, intercepts)
    assert network not in {one.network for one in others}
    assert choose_setups(network, [published], abilities) == [setup]
    assert setup.has_mounts == (network is not Network.INTERCEPT)
    assert setup.has_network == (network is Network.PRIVATE)
    assert setup.redirects_names == (network is Network.INTERCEPT)


def test_every_other_way_that_works_comes_next() -> None:
    setups = choose_setups(None, [LOW], Abilities())
    assert [one.network for one in setups] == [Network.HOST, Network.INTERCEPT, Network.PRIVATE]
    setups = choose_setups(None, [LOW], Abilities(interception=NO, network=None))
    assert [one.network for one in setups] == [Network.PRIVATE]


@pytest.mark.parametrize("wanted", [None, *Network])
def test_the_error_names_why_no_way_works(wanted: Network | None) -> None:
    with pytest.raises(ConfigurationError, match="step: Operation not permitted") as caught:
        choose_setups(wanted, [LOW], Abilities(mounts=NO, network=NO, interception=NO))
    assert caught.value.remedy == "change it; 'hybridrelay run --check' explains every value of --network"


@pytest.mark.parametrize(
    ("step", "number", "facts", "remedy"),
    [
        ("unshare", errno.EPERM, Facts(unprivileged_clone=0), "sysctl kernel.unprivileged_userns_clone=1"),
        ("unshare", errno.ENOSPC, Facts(max_user_namespaces=0), "sysctl user.max_user_namespaces"),
        (
            "/proc/self/uid_map",
            errno.EPERM,
            Facts(apparmor_restricts=True),
            "profile hybridrelay /usr/bin/hybridrelay",
        ),
        ("mount /", errno.EACCES, Facts(apparmor_restricts=True), "userns,"),
        ("unshare", errno.EPERM, Facts(in_container=True), "--security-opt seccomp=FILE"),
        ("mount /", errno.EPERM, Facts(in_container=True), "apparmor=unconfined"),
        ("unshare", errno.EINVAL, Facts(), "CONFIG_USER_NS"),
        ("unshare", errno.EPERM, Facts(), "which security policy"),
        ("pidfd_getfd", errno.EPERM, Facts(ptrace_scope=2), "sysctl kernel.yama.ptrace_scope=1"),
        ("/proc/12/mem", errno.EACCES, Facts(ptrace_scope=3), "ptrace_scope"),
        ("pidfd_getfd", errno.EPERM, Facts(in_container=True), "--cap-add SYS_PTRACE"),
        ("pidfd_getfd", errno.ENOSYS, Facts(), "Linux 5.6"),
        ("seccomp", errno.EINVAL, Facts(), "CONFIG_SECCOMP_FILTER"),
        ("seccomp", errno.EPERM, Facts(), "which security policy"),
    ],
)
def test_what_to_change(step: str, number: int, facts: Facts, remedy: str) -> None:
    refusal = explain(step, number, "text", facts)
    assert remedy in refusal.remedy
    assert str(refusal) == f"{step}: text"
