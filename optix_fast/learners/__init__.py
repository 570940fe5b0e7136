"""What updates networks, and what acts by them: a folder for each algorithm."""
