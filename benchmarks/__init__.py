"""Benchmarks; each prints a table. `python -m benchmarks` runs those that need no data."""
