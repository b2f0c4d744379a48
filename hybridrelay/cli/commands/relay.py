"""``hybridrelay relay``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial

from ..._nursery import FlatNursery
from ...connectivity import all_ports, discover
from ...errors import ConfigurationError
from ...events.log import logged_events
from ...events.plain_log import plainly_logged_events
from ...events.program import ReloadSkipped
from ...management import ManagementTcp, TcpOptions, serve_management
from ...relay import STOP_GRACE_SECONDS, Binding, Relay, RelayConfig, RelayInfo
from ...relay.config import ClientAddresses, default_workers
from ...security import NO_NETWORKS, Networks
from .. import exits
from ..arguments import values
from ..auditing import ProgramAudit, audited
from ..option_parts import OptionParts, Part, audit_part, log_level_part
from ..relay_configuration import RelayConfiguration
from ..reloading import publish_not_reloaded
from ..running import GracefulStop, run_until_stopped

#: The options of the relay itself that can be changed while it runs.
_OF_RELAY = frozenset(
    {"host", "ports", "public_ports", "websocket_path_prefix", "tls_certificate", "tls_key"}
    | {"proxy_protocol_from", "trusted_proxies", "client_addresses"}
)
#: The options of the management API over TCP.
_OF_MANAGEMENT = frozenset(
    {"management", "management_tls_certificate", "management_tls_key", "management_client_ca", "management_host"}
)


def run(args: argparse.Namespace) -> int:
    """Run the relay until a signal stops it."""
    configuration = RelayConfiguration(args)
    events = logged_events()
    relay = Relay(make_config(args), events=events)
    tcp = ManagementTcp(make_management(args), events=events)
    audit = ProgramAudit(args)
    stop = GracefulStop(STOP_GRACE_SECONDS)

    async def use_relay_options(wanted: argparse.Namespace) -> None:
        await relay.update(make_config(wanted))
        tcp.use_proxies(*_proxies(wanted))

    async def use_management_options(wanted: argparse.Namespace) -> None:
        await tcp.change(make_management(wanted))

    own = [Part(_OF_RELAY, use_relay_options), Part(_OF_MANAGEMENT, use_management_options)]
    parts = OptionParts(args, [*own, audit_part(audit), log_level_part()])

    async def reload() -> None:
        if args.tls_certificate is None and args.management_tls_certificate is None and args.config is None:
            detail = "there is no --config or --tls-certificate to reload; changes to the registry need no signal"
            plainly_logged_events().publish(ReloadSkipped(detail=detail))
        await configuration.read_again(parts)
        for reload_certificates in (relay.reload_certificates, tcp.reload):
            try:
                await reload_certificates()
            except ConfigurationError as exc:
                publish_not_reloaded(exc)
        stop.say_changed("relay", _fields(relay.info))

    async def main() -> None:
        async with audited(audit, "relay", events), FlatNursery() as nursery:
            info = await nursery.start(partial(relay.run, stop=stop.event))
            now = lambda: relay.info or info  # noqa: E731
            manage = partial(serve_management, args.state, now, relay.live, stop=stop.event, tcp=tcp, events=events)
            await nursery.start(
                partial(
                    manage,
                    last_reload=lambda: configuration.last_reload,
                    failed_sinks=lambda: audit.log.problems,
                )
            )
            await stop.say_ready("relay", _fields(info))

    reloads = partial(args.reload_requests.serve, stop.unless_stopping(reload))
    run_until_stopped(main, stop=stop, on_abort=relay.kill_workers, reloads=reloads)
    return exits.OK


def _fields(info: RelayInfo | None) -> Sequence[tuple[str, str]]:
    """Return what the ready line says."""
    if info is None:
        return ()
    fields = [(name, ",".join(map(str, bindings))) for name, bindings in info.bound.items() if bindings]
    return [*fields, ("pin", info.pin)]


def make_config(args: argparse.Namespace) -> RelayConfig:
    """Make the relay's configuration from the options.

    Raises:
        ConfigurationError: an option is missing, or needs another one.
    """
    if args.state is None:
        raise ConfigurationError("no state directory was given", remedy="relay --state DIR, or state in --config")
    if args.tls_key is not None and args.tls_certificate is None:
        raise ConfigurationError("--tls-key needs --tls-certificate", remedy="give both, or neither")
    proxy_protocol_from, trusted_proxies = _proxies(args)
    return RelayConfig(
        state_dir=args.state,
        bindings=make_bindings(args.host or [""], args.ports or {}, args.websocket_path_prefix or ""),
        public_ports=args.public_ports or {},
        tls_certificate=args.tls_certificate,
        tls_key=args.tls_key,
        max_pairs=args.max_pairs,
        max_pairs_per_connection=args.max_pairs_per_connection,
        max_pairs_per_key=args.max_pairs_per_key,
        workers=default_workers() if args.workers is None else args.workers,
        keep_pairs=args.keep_pairs,
        proxy_protocol_from=proxy_protocol_from,
        trusted_proxies=trusted_proxies,
        client_addresses=ClientAddresses(args.client_addresses),
        max_history_bytes=args.max_history_mib << 20,
    )


def _proxies(args: argparse.Namespace) -> tuple[Networks, Networks]:
    """Return the proxies that send PROXY headers, and those that are trusted reverse proxies."""
    return args.proxy_protocol_from or NO_NETWORKS, args.trusted_proxies or NO_NETWORKS


def make_management(args: argparse.Namespace) -> TcpOptions:
    """Make the options of the management API over TCP. Without ``--management``, they have no address.

    Raises:
        ConfigurationError: an option is missing.
    """
    if not args.management:
        for option in ("management_tls_certificate", "management_tls_key", "management_client_ca", "management_host"):
            if getattr(args, option):
                name = option.replace("_", "-")
                raise ConfigurationError(
                    f"--{name} needs --management", remedy="say where to listen: --management ADDR:PORT"
                )
        return TcpOptions()
    proxy_protocol_from, trusted_proxies = _proxies(args)
    return TcpOptions(
        addresses=args.management,
        certificate=args.management_tls_certificate,
        key=args.management_tls_key,
        client_ca=args.management_client_ca,
        hosts=args.management_host or (),
        proxy_protocol_from=proxy_protocol_from,
        trusted_proxies=trusted_proxies,
    )


def make_bindings(
    hosts: Sequence[str], ports: Mapping[str, values.PortOption], path_prefix: str = ""
) -> Mapping[str, tuple[Binding, ...]]:
    """Return the addresses to listen on, by port name: those in `ports`, and the defaults for all other ports.

    Args:
        hosts: the addresses for ports whose entry in `ports` has no address.
        ports: the value of ``--ports``.
        path_prefix: see `Binding.path_prefix`.
    """
    known = all_ports(discover())
    options: dict[str, values.PortOption] = {name: (None, port.default) for name, port in known.items()}
    bindings = {}
    for name, option in {**options, **ports}.items():
        if option is None:
            continue
        address, number = option
        bindings[name] = tuple(
            Binding(host, number, path_prefix=path_prefix) for host in (hosts if address is None else [address])
        )
    return bindings
