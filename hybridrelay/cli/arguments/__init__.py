"""The arguments of the commands: one module for each, which imports nothing that takes long to import.

Each module has a `Command`. Its function in `hybridrelay.cli.commands` is imported when the command is run.
"""
