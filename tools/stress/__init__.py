"""Requests by the million, and processes and threads beside one another."""
