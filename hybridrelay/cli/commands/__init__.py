"""The functions of the commands: they get the parsed arguments, call the library, print, and return the exit code.

Each is imported when its command is run; `hybridrelay.cli.arguments` names them.
"""
