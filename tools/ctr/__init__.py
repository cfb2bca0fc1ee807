"""Click-through data and a small model over it, for the demo and the quality check."""
