"""Reports for people: tables, the table of targets, plots, and a page with all of these."""
