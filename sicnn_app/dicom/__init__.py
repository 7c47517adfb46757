"""DICOM out: the series in which a run was acquired, and F, D and D* of it as Parametric Map objects.

May import ``bids``, ``derivatives``, ``ivim``, and what every module may.
"""
