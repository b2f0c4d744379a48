"""The benchmark suite, which measures our transports and their alternatives in turn within one run.

``README.md`` in this directory explains the output. Apart from the micro-benchmarks, `splice_hop` and
`strangers.without_rate_limits`, the suite uses only public names and commands of hybridrelay. Everything under test
runs in separate processes.
"""
