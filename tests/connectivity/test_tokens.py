"""The token for a relay: a new one is made for each request, and it is valid for an hour."""

from __future__ import annotations

import time
from urllib.parse import parse_qs

from hybridrelay.connectivity.link import TOKEN_SECONDS, make_connection_token
from hybridrelay.security import ConnectionString, Endpoint, Role, create_authority, generate_key


def test_a_token_lives_for_an_hour_and_names_one_relay() -> None:
    authority = create_authority("db", now=time.time())
    string = ConnectionString(
        endpoints=(Endpoint("a.example"), Endpoint("b.example")),
        key_name="sender",
        key=generate_key(),
        entity_path="db",
        identity=authority.issue(Role.APPLICATION, "x", now=time.time()),
        authority=authority.certificate,
    )
    now = 1_900_000_000.0
    for host in string.hosts:
        fields = parse_qs(make_connection_token(string, host, now).removeprefix("SharedAccessSignature "))
        assert int(fields["se"][0]) == now + 3600 == now + TOKEN_SECONDS
        assert host in fields["sr"][0]
        assert fields["sr"][0].rstrip("/").endswith("/db")
        assert string.key.reveal() not in str(fields)
