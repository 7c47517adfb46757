"""Pieces that several questions share: simulated measurements, errors, clocks, kept results and tables.

Imports nothing of the other folders.
"""
