"""Digital phantoms with known F, D and D*: maps, noisy acquisitions and BIDS datasets of them.

May import ``derivatives``, ``ivim``, and what every module may.
"""
