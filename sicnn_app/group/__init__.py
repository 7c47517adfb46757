"""The group level: what all runs of an output dataset have in common, from their derivatives alone.

May import ``bids``, ``derivatives``, ``ivim``, ``report``, and what every module may.
"""
