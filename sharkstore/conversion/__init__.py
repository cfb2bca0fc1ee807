"""A conversion step by step: what was asked for, what an earlier run did, what a person is told."""
