"""The command lines: arguments to settings, signals and errors to exit codes.

May import ``assess``, ``pipeline``, ``phantoms``, and what every module may.
"""
