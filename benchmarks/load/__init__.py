"""The load generators: one process for each measurement, which also measures what the processes under test use.

``python -m benchmarks.load KIND`` reads a JSON object from standard input and writes one to standard output: the
metrics by name, and the usage by role.
"""
