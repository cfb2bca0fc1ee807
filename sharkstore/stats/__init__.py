"""Stats files: written, counted from logs, merged, described. Needs numpy, no torch."""
