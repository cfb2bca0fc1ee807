"""Open a store: check it, map it, look rows up, close it."""
