"""Running an application that sees the hosts of hybrid connections under their names and ports; for Linux.

There are three processes (`following.py`): the first one, which was started as ``hybridrelay run``; its child, in
which the client runs; and the child of that, which becomes the application. Between fork and exec, the application's
process enters namespaces (`namespaces.py`), or installs a system call filter (`processes.py`). The client's process
then accepts the application's connections, or redirects them (`interception.py`).

`linux.py` has the system calls, `networks.py` has the ways in which this can be done, and `checking.py` finds out
which of them this machine allows. The modules that only make decisions are pure: `addresses.py`, `files.py`,
`networks.py`, `refusals.py`, `seccomp.py` and `signals.py`.
"""
