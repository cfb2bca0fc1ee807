"""The store format: the documents written and parsed, and every rule of the specification."""
