"""The benchmark suite: our transports and their alternatives, measured in alternation within one run.

``README.md`` beside this file says how to read what it prints. The suite uses public names and commands of
hybridrelay only; everything under test runs in processes of its own.
"""
