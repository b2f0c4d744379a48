"""Finding out on which port an instance of SQL Server listens, by asking the Browser service of its host."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import attrs
import trio

from .._descriptors import is_reserved
from .._shortage import OUT_OF_DESCRIPTORS, socket_shortage_of
from .._value import Value
from ..policy.decision import Decision
from ..protocol.reasons import Reason
from ..security import HostPort, NamedInstance, StreamTarget
from ..streams.connecting import Places, Spare, resolve_host
from ..streams.name_lookups import AddressInfo, Purpose
from .sql_browser import BROWSER_PORT, MAX_REPLY, BadReply, instance_request, parse_instance_reply_untrusted
from .targets import DIAL_SECONDS, TargetDenied, TargetError, name_error, open_target

__all__ = ["CACHE_SECONDS", "FoundInstance", "NamedInstances"]

#: How long a port is used before the service is asked again (seconds).
CACHE_SECONDS: Final = 30.0
#: How many ports are remembered. If there are more, the oldest is forgotten.
_MAX_CACHED: Final = 1024
#: How many times the service is asked, and how long it may take each time (seconds).
_ATTEMPTS: Final = 2
_REPLY_SECONDS: Final = 1.0
#: How many addresses of a host are asked, all at the same time.
_MAX_ADDRESSES: Final = 8
#: How many datagrams that are not replies are read for one request.
_MAX_BAD_REPLIES: Final = 16


@attrs.frozen
class FoundInstance(Value):
    """Where an instance listens."""

    #: Its host, as it is configured, with the port.
    target: HostPort
    #: The IP address that has answered.
    address: str


class NamedInstances:
    """Finds instances, and remembers each for `CACHE_SECONDS`.

    Args:
        port: the UDP port of the service. Only tests use another one.
        clock: returns seconds on a monotonic clock.
    """

    def __init__(self, port: int = BROWSER_PORT, clock: Callable[[], float] = time.monotonic) -> None:
        self._port = port
        self._clock = clock
        #: With the time until which it is used; the oldest first.
        self._cached: dict[NamedInstance, tuple[FoundInstance, float]] = {}

    async def find(
        self,
        instance: NamedInstance,
        permit: Callable[[str], Decision],
        *,
        afresh: bool = False,
        spare: Spare | None = None,
    ) -> FoundInstance:
        """Return where an instance listens: at the address of its host whose service answers first.

        Args:
            instance: the instance.
            permit: decides about each IP address to which its host resolves, before anything is sent there.
            afresh: whether to ask even if the answer is remembered.
            spare: for the sockets with which further addresses are asked at the same time; None: no limit.

        Raises:
            TargetDenied: `permit` allows no address.
            TargetError: nobody says where it listens. The text names no address, since it is sent to the client.

        The caller sets a deadline for resolving the name. If cancelled, nothing stays open.
        """
        cached = self._cached.get(instance)
        if cached is not None and self._clock() < cached[1] and not afresh:
            await trio.lowlevel.checkpoint()
            return cached[0]
        try:
            addresses = await resolve_host(instance.host, self._port, socket.SOCK_DGRAM, purpose=Purpose.TARGET)
        except OSError as exc:
            raise name_error(exc) from exc
        allowed = _allowed(addresses, permit)[:_MAX_ADDRESSES]
        with Places(spare) as places:
            found = await _ask_all(instance, allowed, places)
        self._cached.pop(instance, None)
        if len(self._cached) >= _MAX_CACHED:
            del self._cached[next(iter(self._cached))]
        self._cached[instance] = found, self._clock() + CACHE_SECONDS
        return found

    async def open(
        self,
        instance: NamedInstance,
        *,
        permit: Callable[[StreamTarget, str], Decision],
        in_parallel: bool = False,
        seconds: float = DIAL_SECONDS,
        spare: Spare | None = None,
    ) -> trio.SocketStream:
        """Connect to an instance. If nothing listens where it was found, its port is asked for again next time.

        Args:
            instance: the instance.
            permit: decides about each IP address: first with the instance, before its host is asked there, and then
                with the port, before it is connected to.
            in_parallel: whether only one of the host's addresses is expected to answer, which may be another one at
                any time: all of them are then asked each time. Only the one that has answered is connected to, since
                the instance may have another port, or another instance the same port, at the others.
            seconds: the deadline for all of it.
            spare: see `find`.

        Raises:
            TargetDenied, TargetError: see `find` and `open_target`.
        """
        deadline = trio.current_time() + seconds
        with trio.move_on_at(deadline) as scope:
            found = await self.find(instance, partial(permit, instance), afresh=in_parallel, spare=spare)
        if scope.cancelled_caught:
            raise TargetError(f"the target did not answer within {seconds:g} s", Reason.TARGET_TIMEOUT)
        left = max(0.0, deadline - trio.current_time())
        try:
            return await open_target(
                found.target, at=found.address, permit=partial(permit, found.target), seconds=left
            )
        except TargetError:
            self._cached.pop(instance, None)
            raise


def _allowed(addresses: Sequence[AddressInfo], permit: Callable[[str], Decision]) -> Sequence[AddressInfo]:
    decisions = [(address, permit(str(address[4][0]))) for address in addresses]
    allowed = [address for address, decision in decisions if decision.reason is None]
    if not allowed:
        raise TargetDenied(decisions[-1][1])
    return allowed


async def _ask_all(instance: NamedInstance, addresses: Sequence[AddressInfo], places: Places) -> FoundInstance:
    """Ask all addresses at the same time, as far as there are places, and return the first answer."""
    found: list[FoundInstance] = []
    problems: list[TargetError] = []
    async with trio.open_nursery() as nursery:

        async def ask(address: AddressInfo) -> None:
            await places.acquire()
            try:
                port = await _ask(instance.instance, address)
            except TargetError as exc:
                places.release()
                problems.append(exc)
            else:
                found.append(FoundInstance(HostPort(instance.host, port), str(address[4][0])))
                nursery.cancel_scope.cancel()

        for address in addresses:
            nursery.start_soon(ask, address)
    if found:
        return found[0]
    raise max(problems, key=lambda one: one.reason.specificity)


async def _ask(instance: str, address: AddressInfo) -> int:
    """Return the port that the service at one address says.

    Raises:
        TargetError: it says none.
    """
    family, kind, proto, _, sockaddr = address
    problem = ""
    try:
        with trio.socket.socket(family, kind, proto) as sock:
            if is_reserved(sock.fileno()):
                raise TargetError(
                    f"the connector {OUT_OF_DESCRIPTORS.text}",
                    Reason.OUT_OF_RESOURCES,
                    remedy=OUT_OF_DESCRIPTORS.remedy,
                )
            # Only datagrams from this address and port arrive at a connected socket.
            await sock.connect(sockaddr)
            for _ in range(_ATTEMPTS):
                await sock.send(instance_request(instance))
                with trio.move_on_after(_REPLY_SECONDS):
                    for _ in range(_MAX_BAD_REPLIES):
                        try:
                            return parse_instance_reply_untrusted(await sock.recv(MAX_REPLY + 1), instance)
                        except BadReply as exc:
                            problem = str(exc)
    except OSError as exc:
        if (shortage := socket_shortage_of(exc)) is not None:
            raise TargetError(
                f"the connector {shortage.text}", Reason.OUT_OF_RESOURCES, remedy=shortage.remedy
            ) from exc
        refused = isinstance(exc, ConnectionRefusedError)
        text = "the SQL Server Browser service (UDP 1434) of the target's host " + (
            "is not running" if refused else "cannot be reached"
        )
        raise TargetError(text, Reason.TARGET_REFUSED if refused else Reason.TARGET_UNREACHABLE) from exc
    if problem:
        raise TargetError(
            f"the reply of the SQL Server Browser service is not usable: {problem}", Reason.TARGET_UNREACHABLE
        )
    raise TargetError(
        "the SQL Server Browser service of the target's host did not answer: it is not running, knows no such "
        "instance, or a firewall blocks UDP port 1434",
        Reason.TARGET_TIMEOUT,
    )
