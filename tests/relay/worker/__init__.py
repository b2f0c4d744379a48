"""Tests of the processes that move bytes for the relay."""
