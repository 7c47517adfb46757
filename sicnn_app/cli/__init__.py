"""The command lines: arguments to settings, signals and errors to exit codes.

May import ``assess``, ``dicom``, ``pipeline``, ``phantoms``, and what every module may.
"""
