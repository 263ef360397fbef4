"""Benchmarks against other frameworks. Nothing else in the package imports this."""
