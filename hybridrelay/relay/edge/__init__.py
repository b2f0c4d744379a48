"""What stands between a socket and an authenticated channel: certificates, slots, and the order of handshakes."""
