"""A budget divided over all rows: what each loses in each encoding, measured and weighed."""
