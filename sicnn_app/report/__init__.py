"""The HTML report of a subject or session, made from its derivatives alone.

May import ``derivatives``, ``ivim``, and what every module may.
"""
