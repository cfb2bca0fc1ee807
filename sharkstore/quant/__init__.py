"""Blocks of rows in and out of their encodings."""
