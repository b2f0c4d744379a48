"""What to change if a machine does not allow an application to be run with some `Network`. Pure."""

from __future__ import annotations

import errno

import attrs

from .networks import Refusal

__all__ = ["Facts", "explain"]


@attrs.frozen
class Facts:
    """What is known about a machine. None means that it has no such setting."""

    #: Whether AppArmor lets only programs with a profile use user namespaces (Ubuntu from 23.10).
    apparmor_restricts: bool | None = None
    #: kernel.unprivileged_userns_clone, of Debian's older kernels and of hardened ones.
    unprivileged_clone: int | None = None
    #: user.max_user_namespaces.
    max_user_namespaces: int | None = None
    #: kernel.yama.ptrace_scope.
    ptrace_scope: int | None = None
    #: Whether this process is in a container.
    in_container: bool = False
    #: The path of this program, for an AppArmor profile.
    program: str = "/usr/bin/hybridrelay"


_APPARMOR = (
    "AppArmor lets only programs with a profile use user namespaces: as root, write the line 'abi <abi/4.0>, profile "
    "hybridrelay {program} flags=(unconfined) {{ userns, }}' to /etc/apparmor.d/hybridrelay, and run "
    "'apparmor_parser -r /etc/apparmor.d/hybridrelay'"
)
_CLONE = "as root, run 'sysctl kernel.unprivileged_userns_clone=1'"
_MAXIMUM = "as root, run 'sysctl user.max_user_namespaces=10000'"
_CONTAINER = (
    "the container runtime refuses it: start the container with a seccomp profile that allows {calls} (Docker and "
    "Podman: --security-opt seccomp=FILE{more}), or run 'hybridrelay forward' in a sidecar"
)
_KERNEL = "it needs Linux {version} or later, with {what}"
_LSM = "ask the administrator of this machine which security policy (AppArmor, SELinux, seccomp) refuses it"


def explain(step: str, number: int, text: str, facts: Facts) -> Refusal:
    """Explain why a step failed.

    Args:
        step: the system call or the file.
        number: the error number.
        text: the text of the error.
        facts: what is known about the machine.
    """
    return Refusal(step, text, _remedy(step, number, facts))


def _remedy(step: str, number: int, facts: Facts) -> str:
    denied = number in (errno.EPERM, errno.EACCES)
    if step == "seccomp" or step.startswith("pidfd_getfd") or step.endswith("/mem"):
        return _interception_remedy(step, denied=denied, facts=facts)
    if number in (errno.ENOSPC, errno.EUSERS) or facts.max_user_namespaces == 0:
        return _MAXIMUM
    if number in (errno.EINVAL, errno.ENOSYS) and step == "unshare":
        return _KERNEL.format(version="3.8", what="user namespaces (CONFIG_USER_NS, CONFIG_NET_NS)")
    if facts.unprivileged_clone == 0:
        return _CLONE
    if denied and facts.apparmor_restricts:
        return _APPARMOR.format(program=facts.program)
    if denied and facts.in_container:
        more = ", and --security-opt apparmor=unconfined, which mounts need" if step != "unshare" else ""
        return _CONTAINER.format(calls="unshare and mount", more=more)
    return _LSM if denied else "change this on the machine, or use another value of --network"


def _interception_remedy(step: str, *, denied: bool, facts: Facts) -> str:
    if denied and (facts.ptrace_scope or 0) >= 2:
        return "as root, run 'sysctl kernel.yama.ptrace_scope=1'"
    if denied and facts.in_container:
        return _CONTAINER.format(calls="seccomp and pidfd_getfd", more=", or --cap-add SYS_PTRACE")
    if denied:
        return _LSM
    if step == "seccomp":
        return (
            "it needs Linux 5.6 or later on x86_64 or aarch64, with CONFIG_SECCOMP_FILTER, and does not work inside "
            "another program that intercepts system calls"
        )
    return _KERNEL.format(version="5.6", what="pidfd_getfd")
