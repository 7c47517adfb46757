"""The files at the top of the output dataset, shared by every job that writes into it."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sicnn_app import __version__, record
from sicnn_app.bids.atomic import (
    WORK_FOLDER,
    make_folder,
    write_bytes,
)
from sicnn_app.bids.readme import DESCRIPTIONS, readme_text
from sicnn_app.bids.sidecar import RAW_DATASET
from sicnn_app.errors import DataError, UsageError
from sicnn_app.formats import json_bytes, tsv_bytes
from sicnn_app.locks.shared import locked_folder, shared_folder

BIDS_VERSION = "1.11.1"

LOCK_TIMEOUT = 60.0
"""Seconds to wait for another job; it holds the lock for milliseconds."""

BIDSIGNORE: tuple[str, ...] = (
    "*.html",
    "**/figures",
    "*_dwimap.*",
    "*_dwi.bval",
    "*_dwi.bvec",
    # Trace images come without directions, which the validator counts as an error of the image;
    # without the image it would miss the owner of the sidecar.
    "*_desc-preproc_dwi.nii.gz",
    "*_desc-preproc_dwi.json",
    "*_qc.*",
    "group_*",
    "CITATION.md",
)
"""What the released BIDS standard has no rule for; everything else is left to the validator."""


def pybids_config_path() -> Path:
    """Configuration that teaches pybids the ``param`` entity.

    Use it beside the two configurations that pybids brings:
    ``BIDSLayout(out, validate=False, config=["bids", "derivatives", str(pybids_config_path())])``.
    """
    return Path(__file__).with_name("pybids_config.json")


def dataset_location(dataset: Path, output_dir: Path) -> str:
    """How ``dataset_description.json`` names a dataset.

    A relative path when the output lies inside it, so that both can move together; a ``file://``
    URI otherwise.
    """
    dataset, output_dir = Path(dataset).resolve(), Path(output_dir).resolve()
    if output_dir.is_relative_to(dataset) and output_dir != dataset:
        return Path(os.path.relpath(dataset, output_dir)).as_posix()
    return dataset.as_uri()


def prepare_output(
    output_dir: Path,
    bids_dir: Path | None,
    derivatives: Mapping[str, Path],
    *,
    citation: str,
    work_dir: Path | None = None,
) -> None:
    """Create the output dataset, or bring an existing one up to date.

    Writes ``dataset_description.json``, ``README.md``, ``CITATION.md``, ``.bidsignore`` and
    ``descriptions.tsv``. Parallel jobs may do so at the same time: a lock is
    held meanwhile, and every file is replaced as a whole. Links, rows and lines of earlier
    jobs are kept, and so is an existing ``README.md``, which a person may have extended.

    Parameters
    ----------
    output_dir : Path
    bids_dir : Path or None
        Input dataset; None (analysis level ``group``) keeps the links that are there.
    derivatives : mapping of str to Path
        Other datasets by the names used in BIDS URIs.
    citation : str
        Text of ``CITATION.md``.
    work_dir : Path, optional
        Where the lock lives, ``output_dir/.work`` by default. Jobs exclude each other only where
        they share it.

    Raises
    ------
    OutputError
        When the file system refuses.
    DataError
        When an existing ``dataset_description.json`` cannot be parsed. It is not replaced: the
        links of earlier jobs would be lost. The file system is not to blame, so this is no
        ``OutputError``, which would send the user to look at permissions and space.
    UsageError
        When ``output_dir`` holds a dataset that is no derivative, or a derivative is named ``raw``.
    TryAgainError
        When another process holds the lock for a minute.
    """
    output_dir = Path(output_dir)
    for name in derivatives:
        if name in ("", RAW_DATASET):
            raise UsageError(
                f"--derivatives: the name {name!r} is taken by the input dataset: choose another"
            )
    make_folder(output_dir)
    place = shared_folder(work_dir or output_dir / WORK_FOLDER, "dataset", output_dir)
    with locked_folder(place, wait=LOCK_TIMEOUT):
        ours = record.APP_NAME in {
            entry.get("Name")
            for entry in _entries(_read_description(output_dir / "dataset_description.json"), "GeneratedBy")
        }
        description = _merged_description(output_dir, bids_dir, derivatives)
        _update(output_dir, "dataset_description.json", json_bytes(description))
        _update(output_dir, ".bidsignore", _merged_bidsignore(output_dir / ".bidsignore"))
        _update(output_dir, "descriptions.tsv", _merged_descriptions(output_dir / "descriptions.tsv"))
        if ours or not (output_dir / "CITATION.md").exists():
            _update(output_dir, "CITATION.md", citation.encode())
        if not (output_dir / "README.md").exists():
            _update(output_dir, "README.md", readme_text().encode())


def _update(output_dir: Path, name: str, content: bytes) -> None:
    target = output_dir / name
    if _read(target) != content:
        write_bytes(target, content, output_dir=output_dir)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}): repair or remove it") from error


def _read_description(path: Path) -> dict[str, Any]:
    content = _read(path)
    if content is None:
        return {}
    try:
        description = json.loads(content)
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}): repair or remove it") from error
    if not isinstance(description, dict):
        raise DataError(f"{path}: must hold a JSON object: repair or remove it")
    return description


def _merged_description(
    output_dir: Path, bids_dir: Path | None, derivatives: Mapping[str, Path]
) -> dict[str, Any]:
    path = output_dir / "dataset_description.json"
    existing = _read_description(path)
    if existing and existing.get("DatasetType", "raw") != "derivative":
        raise UsageError(f"{output_dir}: holds a dataset that is no derivative: name another output folder")
    datasets = dict(sorted(derivatives.items()))
    if bids_dir is not None:
        datasets = {RAW_DATASET: bids_dir, **datasets}
    links = {name: dataset_location(dataset, output_dir) for name, dataset in datasets.items()}
    known = [_source_dataset(dataset, links[name]) for name, dataset in datasets.items()]
    others = [entry for entry in _entries(existing, "GeneratedBy") if entry.get("Name") != record.APP_NAME]
    earlier_links = existing.get("DatasetLinks")
    earlier_links = earlier_links if isinstance(earlier_links, dict) else {}
    urls = {entry["URL"] for entry in known}
    # A link that now points elsewhere takes its old source entry with it.
    urls |= {url for name, url in earlier_links.items() if name in links}
    earlier_sources = [
        entry for entry in _entries(existing, "SourceDatasets") if entry.get("URL") not in urls
    ]
    description = {
        "Name": "SI-CNN: IVIM parameter maps",
        **existing,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [_generated_by(), *others],
    }
    for key, value in (
        ("SourceDatasets", [*known, *earlier_sources]),
        ("DatasetLinks", {**earlier_links, **links}),
    ):
        if value:
            description[key] = value
    return description


def _entries(description: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = description.get(key)
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _generated_by() -> dict[str, Any]:
    entry: dict[str, Any] = {"Name": record.APP_NAME, "Version": __version__}
    if (url := record.code_url()) is not None:
        entry["CodeURL"] = url
    if (container := record.container()) is not None:
        entry["Container"] = container
    return entry


def _source_dataset(dataset: Path, location: str) -> dict[str, str]:
    source = {"URL": location}
    try:
        description = json.loads((Path(dataset) / "dataset_description.json").read_bytes())
    except (OSError, ValueError):
        return source
    doi = description.get("DatasetDOI") if isinstance(description, dict) else None
    if isinstance(doi, str) and doi:
        source["DOI"] = doi
    return source


def _merged_bidsignore(path: Path) -> bytes:
    lines = (_read(path) or b"").decode(errors="replace").splitlines()
    lines += [line for line in BIDSIGNORE if line not in lines]
    return ("\n".join(lines) + "\n").encode()


def _merged_descriptions(path: Path) -> bytes:
    text = (_read(path) or b"").decode(errors="replace")
    earlier = [row for row in csv.DictReader(io.StringIO(text), delimiter="\t") if row.get("desc_id")]
    rows = [{"desc_id": f"desc-{label}", "description": meaning} for label, meaning in DESCRIPTIONS.items()]
    own = {row["desc_id"] for row in rows}
    rows += [row for row in earlier if row["desc_id"] not in own]
    return tsv_bytes(("desc_id", "description"), rows)
