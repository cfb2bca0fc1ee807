"""Encodings against the rows they are to hold: sizes, limits, scale exponents."""
