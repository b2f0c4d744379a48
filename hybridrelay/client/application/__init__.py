"""Running an application that sees the hosts of hybrid connections under their names and ports; for Linux.

There are three processes (`following.py`): the first one, its child, in which the client runs, and the application.
Between fork and exec, the application's process enters namespaces (`namespaces.py`), or installs a filter of system
calls (`processes.py`). The client's process then accepts the application's connections, or redirects them
(`interception.py`).

`linux.py` has the system calls, `networks.py` says which ways there are, and `checking.py` finds out which ones this
machine allows. What decides is pure: `addresses.py`, `files.py`, `networks.py`, `refusals.py`,
`seccomp.py` and `signals.py`.
"""
