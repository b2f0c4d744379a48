"""What people read: tables, the table of lines that we want to reach, plots, one page with everything."""
