"""Figures: the only folder that draws. Each function takes results and returns a matplotlib figure."""
