"""Errors that a user can act on, each with the exit code of the contract.

A message is one or two lines: the file, what is wrong with it, what to do.
"""

from __future__ import annotations


class SicnnAppError(Exception):
    """Base of every error shown to a user as one line instead of a traceback."""

    exit_code = 70


class NotBidsError(SicnnAppError):
    """``dataset_description.json`` is missing or is not valid JSON."""

    exit_code = 16


class NoRunsError(SicnnAppError):
    """The filters select no DWI run, or the dataset holds none."""

    exit_code = 18


class UsageError(SicnnAppError):
    """An unknown flag or value, contradictory options, or outputs of other settings."""

    exit_code = 64


class DataError(SicnnAppError):
    """The data cannot be used: wrong counts, unreadable, too few b-values, empty mask."""

    exit_code = 65


class MissingInputError(SicnnAppError):
    """A file or folder that was named, or that a run needs, does not exist."""

    exit_code = 66


class DeviceError(SicnnAppError):
    """The device asked for is not available."""

    exit_code = 69


class InternalError(SicnnAppError):
    """A bug in this app."""

    exit_code = 70


class OutputError(SicnnAppError):
    """The output cannot be created or finished."""

    exit_code = 73


class TryAgainError(SicnnAppError):
    """Stopped by SIGTERM, out of device memory, or a lock held by a live process."""

    exit_code = 75


def complaint(error: SicnnAppError) -> str:
    """The complaint of a message, without what to do: that stands behind the last colon.

    Examples
    --------
    >>> complaint(DataError("a.json is no UTF-8 text (byte 7): save it as plain text in UTF-8"))
    'a.json is no UTF-8 text (byte 7)'
    """
    return str(error).rpartition(": ")[0] or str(error)


def one_line(error: BaseException) -> str:
    r"""Kind and first line of an error that was not made for users.

    Examples
    --------
    >>> one_line(ValueError("no such axis\n  at frame 0"))
    'ValueError: no such axis'
    """
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
