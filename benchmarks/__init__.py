"""Benchmarks of streamrnn; start with ``python benchmarks/bench.py``."""
