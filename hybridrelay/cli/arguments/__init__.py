"""The arguments of the commands: one module for each, which imports nothing that takes time.

Each has a `Command`, whose function in `hybridrelay.cli.commands` is imported when it is called.
"""
