"""Participants in processes of their own, several at a time: on this machine, or on a Dask cluster."""
