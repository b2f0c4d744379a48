"""What the commands do: functions that get the parsed arguments, call the library, print, and return the exit code.

Each is imported when its command is called; `hybridrelay.cli.arguments` names them.
"""
