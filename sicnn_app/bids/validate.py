"""A light check of the dataset itself; names and associations are checked where they are used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sicnn_app.bids.text_files import can_be_entered, read_json
from sicnn_app.errors import DataError, MissingInputError, NotBidsError

DESCRIPTION = "dataset_description.json"
REQUIRED_FIELDS = ("Name", "BIDSVersion")


def _read_description(path: Path) -> dict[str, Any]:
    if not os.path.lexists(path):
        raise NotBidsError(f"{path} is missing: not a BIDS dataset. Add it, or use --skip-bids-validation")
    try:
        return read_json(path)
    except (DataError, MissingInputError) as error:
        remedy = "" if path.exists() and not path.is_file() else ", or use --skip-bids-validation"
        raise NotBidsError(f"{error}{remedy}") from None


def check_dataset(bids_dir: Path, *, skip: bool) -> list[str]:
    """Check that a folder is a BIDS dataset.

    Parameters
    ----------
    bids_dir : Path
    skip : bool
        A missing or broken ``dataset_description.json`` is a warning only.

    Returns
    -------
    list of str
        Warnings, one line each.

    Raises
    ------
    MissingInputError
        The folder does not exist or is not a folder.
    DataError
        The folder cannot be read.
    NotBidsError
        ``dataset_description.json`` is missing or is not valid JSON. Also, in spite of ``skip``,
        when it is no file: whoever opens a pipe waits forever.
    """
    if not os.path.isdir(bids_dir):
        reason = "is not a folder" if os.path.lexists(bids_dir) else "does not exist"
        raise MissingInputError(f"the dataset {bids_dir} {reason}: check the path and the container's mounts")
    if not can_be_entered(bids_dir):
        raise DataError(f"the dataset {bids_dir} cannot be read: check its permissions")
    path = bids_dir / DESCRIPTION
    try:
        description = _read_description(path)
    except NotBidsError as error:
        if not skip or (path.exists() and not path.is_file()):
            raise
        return [str(error)]
    warnings = [f"{path} has no {field}" for field in REQUIRED_FIELDS if not description.get(field)]
    if description.get("DatasetType") == "derivative":
        warnings.append(
            f"{bids_dir} is a derivative dataset, of which only desc-preproc images are processed: "
            "give the raw one as BIDS_DIR and this one with -d where there is one"
        )
    return warnings
