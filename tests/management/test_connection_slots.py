"""The slots of connections to the management API over TCP."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from hybridrelay.management.callers import Caller, Scope
from hybridrelay.management.connection_slots import ConnectionSlot, ConnectionSlots
from hybridrelay.security import ManagementRole

ANNA = Caller("token", "anna 1", ManagementRole.VIEWER)
BEN = Caller("token", "ben 2", ManagementRole.VIEWER)


class Connections:
    """Connections by name, and which of them lost their slots."""

    def __init__(self) -> None:
        self.slots = ConnectionSlots()
        self.evicted: list[str] = []
        self._open: dict[str, ExitStack] = {}
        self._slot: dict[str, ConnectionSlot] = {}

    def open(self, name: str, address: str = "192.0.2.1", caller: Caller | None = None) -> None:
        stack = self._open[name] = ExitStack()
        self._slot[name] = stack.enter_context(self.slots.hold(address, lambda: self.evicted.append(name)))
        if caller is not None:
            self.identify(name, caller)

    def identify(self, name: str, caller: Caller) -> None:
        self._slot[name].identify(caller)

    def move(self, name: str, address: str) -> None:
        self._slot[name].move(address)

    def close(self, name: str) -> None:
        self._open.pop(name).close()


def test_a_caller_with_many_connections_displaces_its_own() -> None:
    all_ = Connections()
    all_.open("ben", "192.0.2.2", BEN)
    for number in range(63):
        all_.open(f"anna {number}", caller=ANNA)
    assert all_.evicted == []
    all_.open("anna 63", caller=ANNA)
    all_.open("ben again", "192.0.2.2", BEN)
    assert all_.evicted == ["anna 0", "anna 1"]


def test_strangers_displace_no_connection_of_an_identified_caller() -> None:
    all_ = Connections()
    all_.open("anna", caller=ANNA)
    for number in range(200):
        all_.open(str(number))
    assert all_.evicted == [str(number) for number in range(200 - 64)]


def test_an_identified_connection_leaves_its_slot_to_a_stranger() -> None:
    all_ = Connections()
    for number in range(64):
        all_.open(str(number))
    all_.identify("0", ANNA)
    all_.open("64")
    assert all_.evicted == []


def test_a_connection_counts_for_its_latest_caller() -> None:
    all_ = Connections()
    for number in range(64):
        all_.open(str(number), caller=ANNA)
    for number in range(60):
        all_.identify(str(number), BEN)
    all_.open("carol", caller=Caller("certificate", "carol", ManagementRole.ADMIN))
    assert all_.evicted == ["0"]  # the oldest one of Ben, who has most


def test_a_caller_and_kind_are_one_identity() -> None:
    all_ = Connections()
    for number in range(64):
        all_.open(str(number), caller=Caller("token", "x", ManagementRole.VIEWER))
    other = Caller("certificate", "x", ManagementRole.VIEWER)
    for number in range(64, 74):
        all_.open(str(number), caller=other)
    assert all_.evicted == [str(number) for number in range(10)]


def with_key(connection: str, rule: str, tenant: str = "") -> Caller:
    return Caller("sas", f"{connection} {rule} primary", ManagementRole.ADMIN, Scope(only=connection), tenant)


@pytest.mark.parametrize("tenant", ["", "team/"])
def test_all_keys_of_a_hybrid_connection_or_tenant_count_as_one_caller(tenant: str) -> None:
    """The holder of a key with the right Manage can make more keys, and that of a token with a scope more hybrid
    connections."""
    all_ = Connections()
    all_.open("other", caller=with_key("other", "manage"))
    for number in range(64):
        connection = f"{tenant}{number}" if tenant else "orders"
        all_.open(str(number), caller=with_key(connection, f"rule-{number % 12}", tenant))
    all_.open("another", caller=with_key("another", "manage"))
    assert all_.evicted == ["0", "1"]


def test_callers_with_a_scope_displace_no_connection_of_an_administrator() -> None:
    all_ = Connections()
    all_.open("anna", caller=ANNA)
    for number in range(200):
        all_.open(str(number), caller=with_key(f"db-{number}", "manage"))
    assert all_.evicted == [str(number) for number in range(200 - 64)]
    all_.identify("199", BEN)  # a connection of a reverse proxy
    for number in range(200, 264):
        all_.open(str(number), caller=with_key(f"db-{number}", "manage"))
    assert "199" not in all_.evicted


def test_a_slot_is_free_after_the_connection_has_ended() -> None:
    all_ = Connections()
    for number in range(64):
        all_.open(str(number), caller=ANNA)
    for number in range(64):
        all_.close(str(number))
    for number in range(64, 128):
        all_.open(str(number), caller=BEN)
    assert all_.evicted == []


def test_a_connection_that_was_displaced_gets_no_slot_again() -> None:
    all_ = Connections()
    for number in range(65):
        all_.open(str(number))
    assert all_.evicted == ["0"]
    all_.identify("0", ANNA)  # a request that was being handled
    all_.close("1")
    for number in range(100, 164):
        all_.open(str(number), caller=BEN)
    assert all_.evicted == ["0"]
    all_.close("0")
    assert all_.evicted == ["0"]


def test_connections_through_a_proxy_count_for_the_addresses_that_it_names() -> None:
    all_ = Connections()
    for number in range(64):
        all_.open(f"{number}", "10.0.0.5")
        all_.move(f"{number}", "192.0.2.9" if 20 <= number < 30 else f"192.0.2.{100 + number}")
    all_.open("another", "10.0.0.5")
    assert all_.evicted == ["20"], "the address that has most loses its oldest"
    all_.identify("21", ANNA)
    all_.move("21", "192.0.2.9")  # it counts for its caller
    all_.close("21")
    all_.move("20", "192.0.2.7")  # it has no slot
    assert all_.evicted == ["20"]
