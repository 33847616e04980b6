"""Benchmark suites: ``make bench SUITE=name ARGS="…"``; the method is in README.md."""
