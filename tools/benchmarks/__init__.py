"""Benchmarks against peers and against what the hardware allows; `tools/bench` runs them."""
