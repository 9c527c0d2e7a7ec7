"""Reports: what run folders say, as a table and as one self-contained page."""
