"""A session on a borrowed GPU: ``scripts/gpu``. Everything inside a budget, everything written at once.

budget      the clock, from the script's own start
processes   a part runs in a process of its own, and is stopped at its limit
session     the parts in order, and the file that tells of them
signals     what ends it early
selfcheck   the device against the CPU
engine      the ways to run a step, side by side
"""
