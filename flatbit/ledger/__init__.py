"""The ledger: every number that the five papers publish, joined with our runs, and the queue that makes them."""
