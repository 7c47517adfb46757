"""What a protocol can tell before anybody is scanned: bounds, a short simulation, better b-values.

May import ``derivatives``, ``ivim``, ``report``, ``phantoms``, and what every module may.
"""
