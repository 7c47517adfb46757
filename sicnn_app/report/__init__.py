"""The HTML report of a subject or session, made from its derivatives alone.

Import the modules: whoever needs texts only shall not load matplotlib, which asks for a cache at once.

May import ``bids``, ``derivatives``, ``ivim``, and what every module may.
"""
