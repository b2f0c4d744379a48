"""Names of published hosts on the machine of an application."""
