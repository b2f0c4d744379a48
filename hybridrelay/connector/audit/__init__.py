"""The audit log: a subscriber of the connector's events."""

from .log import AuditLog as AuditLog
