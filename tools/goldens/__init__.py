"""Makers of the conformance corpus, one module a kind of case."""
