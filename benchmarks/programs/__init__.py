"""Servers and proxies that benchmarks start; each file is run by its name."""
