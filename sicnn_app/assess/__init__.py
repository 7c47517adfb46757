"""Answers a protocol can give before anybody is scanned: bounds, a short simulation, better b-values.

May import ``derivatives``, ``ivim``, ``report``, ``phantoms``, and what every module may.
"""
