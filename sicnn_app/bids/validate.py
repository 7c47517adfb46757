"""A light check of the dataset itself; names and associations are checked where they are used."""

from __future__ import annotations

import json
from pathlib import Path

from sicnn_app.errors import MissingInputError, NotBidsError

DESCRIPTION = "dataset_description.json"
REQUIRED_FIELDS = ("Name", "BIDSVersion")
REMEDY = "correct it, or use --skip-bids-validation"


def _read_description(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise NotBidsError(
            f"{path} is missing: not a BIDS dataset. Add it, or use --skip-bids-validation"
        ) from None
    except OSError as error:
        raise NotBidsError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise NotBidsError(f"{path} is not valid JSON ({error}): {REMEDY}") from None
    if not isinstance(content, dict):
        raise NotBidsError(f"{path} holds no JSON object: {REMEDY}")
    return content


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
    NotBidsError
        ``dataset_description.json`` is missing or is not valid JSON.
    """
    if not bids_dir.is_dir():
        reason = "is not a folder" if bids_dir.exists() else "does not exist"
        raise MissingInputError(f"the dataset {bids_dir} {reason}: check the path and the container's mounts")
    try:
        description = _read_description(bids_dir / DESCRIPTION)
    except NotBidsError as error:
        if not skip:
            raise
        return [str(error)]
    warnings = [
        f"{bids_dir / DESCRIPTION} has no {field}" for field in REQUIRED_FIELDS if not description.get(field)
    ]
    if description.get("DatasetType") == "derivative":
        warnings.append(
            f"{bids_dir} is a derivative dataset: give the raw one as BIDS_DIR and this one with -d"
        )
    return warnings
