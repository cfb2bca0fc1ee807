"""Checkpoints as named tensors, readable by row range; one module a kind."""
