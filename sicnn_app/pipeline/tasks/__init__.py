"""Participants as tasks of a Dask cluster, each in a process of its own."""
