"""Verbs of the command line: one per file, found by its registration."""
