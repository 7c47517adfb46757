"""Settings to outcomes: which runs there are, what each goes through, and how many processes share the work.

May import ``bids``, ``derivatives``, ``group``, ``ivim``, ``preprocess``, ``report``,
``sicnn``, and what every module may.
"""
