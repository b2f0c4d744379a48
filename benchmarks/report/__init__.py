"""Reports for people: tables, the table of targets, plots, and one page with everything."""
