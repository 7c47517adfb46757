"""One network for all runs of a dataset, from which each run's own training starts."""
