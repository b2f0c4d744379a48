"""Serving what a connector or forward is configured to serve, and changing that while the program runs."""
