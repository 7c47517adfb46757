"""Measurements behind the numbers in ``docs/``; run from a checkout, not installed with the app."""
