"""Pictures of the documentation, taken from ``bids_examples``.

Imports nothing of the other folders.
"""
