"""A run, or a Dag, as values."""
