"""Metrics: what a network scores, never without proof, and whether it is healthy."""
