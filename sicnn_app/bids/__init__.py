"""Reads the input: a BIDS dataset and the derivative datasets of ``-d``, to runs, series, masks and regions.

May import ``ivim``, and what every module may.
"""
