"""Serving what a connector, forward or run is configured to serve, and changing that while the program runs."""
