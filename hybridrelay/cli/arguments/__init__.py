"""The arguments of the commands, in one module for each. These modules import nothing that is slow to import.

Each module has a `Command`. Its function in `hybridrelay.cli.commands` is imported when the command is run.
"""
