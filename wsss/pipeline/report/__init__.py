"""The report of a job: its results read back, the page, and what it shows."""
