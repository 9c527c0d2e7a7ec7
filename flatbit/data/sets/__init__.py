"""Data sets: one per file, found by its registration."""
