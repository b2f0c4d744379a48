"""One module for each command: its arguments (`add_parser`), and what it does with them (`run`)."""
