"""The engine: recipes as data, a plan before a run, the run, and the record that it leaves."""
