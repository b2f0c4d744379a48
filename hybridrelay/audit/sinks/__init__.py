"""The sinks of the audit log: places to which its records are written, each by a thread of its own."""
