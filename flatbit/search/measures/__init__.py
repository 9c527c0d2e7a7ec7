"""Measures of sensitivity, one idea per file; less is better."""
