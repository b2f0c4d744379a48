"""The load generators. Each measurement has its own process, which also measures the usage of those under test.

``python -m benchmarks.load KIND`` reads a JSON object from standard input and writes one to standard output: the
metrics by name, and the usage by role.
"""
