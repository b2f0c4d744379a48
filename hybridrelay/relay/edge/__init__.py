"""From an accepted socket to an authenticated channel: certificates, slots, and the order of handshakes."""
