"""Everything about the output: its names, images, sidecars, tables and records, and reading them back.

May import ``bids``, ``ivim``, and what every module may.
"""
