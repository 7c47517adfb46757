"""How long the app takes, what the machine would allow, and a guard against slower code.

May import ``common`` and ``peers``, which are timed.
"""
