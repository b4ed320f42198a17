"""Benchmarks of the repository; the main one is ``streamrnn bench``."""
