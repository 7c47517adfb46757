"""The files at the top of the output dataset, shared by every job that writes into it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sicnn_app import __version__
from sicnn_app.derivatives import provenance
from sicnn_app.derivatives.atomic import WORK_FOLDER, StagedFiles, make_folder, scratch_folder, write_bytes
from sicnn_app.derivatives.sidecar import RAW_DATASET
from sicnn_app.derivatives.written import WrittenRecord
from sicnn_app.errors import DataError, UsageError
from sicnn_app.files import parse_json, read_regular
from sicnn_app.formats import json_bytes, tsv_bytes
from sicnn_app.ivim.flags import FLAGS
from sicnn_app.ivim.parameters import all_maps
from sicnn_app.system.locks.shared import locked_folder, shared_folder

BIDS_VERSION = "1.11.1"

DATASET_UNIT = "dataset"
"""Name of the lock, and of the record, of the files at the top."""

DOI = re.compile(r"(doi:|https?://(dx\.)?doi\.org/)?10\.\d{4,9}/[\w.;()/:-]{1,200}", re.ASCII)
"""Form of a ``DatasetDOI`` that is taken over from another dataset."""

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
    # Averages over directions have none.
    "*_desc-averaged_dwi.nii.gz",
    "*_desc-averaged_dwi.json",
    "*_qc.*",
    "group_*",
    "CITATION.md",
    "pybids_config.json",
    # Of sicnn-dicom.
    "/dicom",
)
"""Files that the released BIDS standard has no rule for; everything else is left to the validator."""


DESCRIPTIONS: dict[str, str] = {
    "preproc": "Diffusion-weighted series after preprocessing, before averaging over repeats and directions",
    "averaged": "Averages of that series, one per b-value, inside the mask: the signals that were fitted",
    "body": "Mask of the body inside which the maps hold numbers",
    "brain": "Mask of the brain inside which the maps hold numbers",
    "ivim": "Quality measures of one run",
    "ivimflags": "First reason why a voxel is not to be trusted",
    "volumes": "What was found in the volumes, one row per volume of the source image",
    "regions": "Maps, flags and mean signals in the regions of the segmentations of --derivatives",
    "training": "History of the estimation, one row per data iteration",
    "lsq": "Map of the conventional least-squares fit of the same signals, to compare with",
    "std": "Standard deviation of a map: how far the truth may be from it",
}
"""Every ``desc`` label the app gives and what it means."""

GIVEN_MASK = "Mask of this label from another dataset, inside which the maps hold numbers"
"""The same of masks that were given with a label of their own."""


PYBIDS_CONFIG = "pybids_config.json"
"""File at the top of every output: what it holds is that of :func:`pybids_config_path`."""


def pybids_config_path() -> Path:
    """Configuration that teaches pybids the ``param`` entity.

    Use it beside the two configurations that pybids brings:
    ``BIDSLayout(out, validate=False, config=["bids", "derivatives", str(pybids_config_path())])``.
    """
    return Path(__file__).with_name(PYBIDS_CONFIG)


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
    masks: Iterable[str] = (),
) -> None:
    """Create the output dataset, or bring an existing one up to date.

    Writes ``dataset_description.json``, ``README.md``, ``CITATION.md``, ``pybids_config.json``,
    ``.bidsignore`` and ``descriptions.tsv``. Parallel jobs may do so at the same time: a lock is held
    meanwhile, and every file is replaced as a whole. What others have written is kept: entries of the
    description, lines and rows; an existing ``README.md``; and a ``CITATION.md`` or ``pybids_config.json``
    that is not as the app wrote it.

    Parameters
    ----------
    bids_dir : Path or None
        Input dataset; None (analysis level ``group``) keeps the links that are there.
    derivatives : mapping of str to Path
        Other datasets by the names used in BIDS URIs.
    citation : str
        Text of ``CITATION.md``.
    work_dir : Path, optional
        Where the lock lives, ``output_dir/.work`` by default. Jobs exclude each other only where
        they share it.
    masks : iterable of str
        ``desc`` labels of the masks that will be written.

    Raises
    ------
    OutputError
        When the file system refuses.
    DataError
        When an existing file cannot be read, or ``dataset_description.json`` not be parsed. It is not
        replaced: the links of earlier jobs would be lost. The file system is not to blame, so this is no
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
    place = shared_folder(work_dir or output_dir / WORK_FOLDER, DATASET_UNIT, output_dir)
    with locked_folder(place, wait=LOCK_TIMEOUT):
        merges: dict[str, Callable[[bytes | None], bytes]] = {
            "dataset_description.json": partial(_merged_description, output_dir, bids_dir, derivatives),
            ".bidsignore": _merged_bidsignore,
            "descriptions.tsv": partial(_merged_descriptions, masks),
        }
        for name, merged in merges.items():
            existing = _read(output_dir / name)
            if (content := merged(existing)) != existing:
                write_bytes(output_dir / name, content, output_dir)
        ours = {"CITATION.md": citation.encode(), PYBIDS_CONFIG: pybids_config_path().read_bytes()}
        _write_ours(output_dir, ours)
        if not os.path.lexists(output_dir / "README.md"):
            write_bytes(output_dir / "README.md", _readme().encode(), output_dir)


def _readme() -> str:
    """Text of ``README.md``, with what the tables of maps, flags and labels say."""
    maps = [f"| `param-{spec.label}` | {spec.unit} | {spec.description} |" for spec in all_maps()]
    flags = [f"| {spec.code} | {spec.name} | {spec.description} |" for spec in FLAGS]
    labels = [f"| `desc-{label}` | {meaning} |" for label, meaning in DESCRIPTIONS.items()]
    text = Path(__file__).with_name("readme.md").read_text(encoding="utf-8")
    return text.format(maps="\n".join(maps), flags="\n".join(flags), labels="\n".join(labels))


def _write_ours(output_dir: Path, files: Mapping[str, bytes]) -> None:
    """Write files at the top, but those in whose place is one that is not as the app wrote it."""
    written = WrittenRecord(output_dir, DATASET_UNIT)
    free = {
        output_dir / name: content
        for name, content in files.items()
        if not os.path.lexists(output_dir / name) or written.is_ours(output_dir / name)
    }
    if all(os.path.lexists(path) and _read(path) == content for path, content in free.items()):
        return
    with scratch_folder(output_dir) as folder:
        staged = StagedFiles(folder)
        for path, content in free.items():
            staged.add_bytes(path, content)
        staged.publish(written)


def _read(path: Path) -> bytes | None:
    # In a folder that others may write to, a link could make this job publish a private file.
    inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(path.parent))
    if path.is_symlink() and not (inside and path.exists()):
        raise DataError(
            f"{path}: is a link that leads out of the folder, or nowhere: put a file there (`datalad unlock` "
            "does where it is annexed)"
        )
    try:
        return read_regular(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}): repair or remove it") from error


def _merged_description(
    output_dir: Path, bids_dir: Path | None, derivatives: Mapping[str, Path], content: bytes | None
) -> bytes:
    path = output_dir / "dataset_description.json"
    try:
        existing = {} if content is None else parse_json(content)
        # Python reads NaN, but whatever has it cannot be written again.
        json_bytes(existing)
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}): repair or remove it") from error
    if not isinstance(existing, dict):
        raise DataError(f"{path}: must hold a JSON object: repair or remove it")
    if existing and existing.get("DatasetType", "raw") != "derivative":
        raise UsageError(f"{output_dir}: holds a dataset that is no derivative: name another output folder")
    for key, kind, name in (
        ("GeneratedBy", list, "a list"),
        ("SourceDatasets", list, "a list"),
        ("DatasetLinks", dict, "an object"),
    ):
        if not isinstance(existing.get(key, kind()), kind):
            raise DataError(f"{path}: {key} must be {name}: correct it")
    datasets = {} if bids_dir is None else {RAW_DATASET: bids_dir}
    datasets |= sorted(derivatives.items())
    links = {name: dataset_location(dataset, output_dir) for name, dataset in datasets.items()}
    earlier_links = existing.get("DatasetLinks", {})
    # A link that now points elsewhere takes its old source entry with it.
    urls = [*links.values(), *(url for name, url in earlier_links.items() if name in links)]
    sources = [_source_dataset(dataset, links[name]) for name, dataset in datasets.items()]
    sources += _without(existing.get("SourceDatasets", []), "URL", urls)
    others = _without(existing.get("GeneratedBy", []), "Name", [provenance.APP_NAME])
    merged = {"SourceDatasets": sources, "DatasetLinks": {**earlier_links, **links}}
    description = {
        "Name": "SI-CNN: IVIM parameter maps",
        "BIDSVersion": BIDS_VERSION,
        **existing,
        # What another program wrote keeps the version that it was written for.
        **({} if others else {"BIDSVersion": BIDS_VERSION}),
        "DatasetType": "derivative",
        "GeneratedBy": [_generated_by(), *others],
        **{key: value for key, value in merged.items() if value},
    }
    return json_bytes(description)


def _without(entries: list[Any], key: str, values: list[Any]) -> list[Any]:
    """Entries but those that have one of some values, in a list: what others wrote may fit into no set."""
    return [entry for entry in entries if not (isinstance(entry, dict) and entry.get(key) in values)]


def _generated_by() -> dict[str, Any]:
    entry = {
        "Name": provenance.APP_NAME,
        "Version": __version__,
        "CodeURL": provenance.code_url(),
        "Container": provenance.container(),
    }
    return {key: value for key, value in entry.items() if value is not None}


def _source_dataset(dataset: Path, location: str) -> dict[str, str]:
    try:
        description = parse_json(read_regular(Path(dataset) / "dataset_description.json"))
    except (OSError, ValueError):
        description = None
    match description:
        case {"DatasetDOI": str(doi)} if DOI.fullmatch(doi):
            return {"URL": location, "DOI": doi}
    return {"URL": location}


def _merged_bidsignore(content: bytes | None) -> bytes:
    content = content or b""
    lines = content.decode(errors="replace").splitlines()
    return _with_lines(content, [line for line in BIDSIGNORE if line not in lines])


def _merged_descriptions(masks: Iterable[str], content: bytes | None) -> bytes:
    """The table with a row for every label that has none; whatever else stands in it is left as it is."""
    content = content or b"desc_id\tdescription\n"
    head, *rows = (line.split("\t") for line in content.decode("utf-8-sig", "replace").splitlines() or [""])
    if not {"desc_id", "description"} <= set(head):
        return content
    known = {row[head.index("desc_id")] for row in rows if len(row) > head.index("desc_id")}
    meanings = {**DESCRIPTIONS, **dict.fromkeys(sorted(set(masks) - DESCRIPTIONS.keys()), GIVEN_MASK)}
    new = [
        {"desc_id": f"desc-{label}", "description": meaning}
        for label, meaning in meanings.items()
        if f"desc-{label}" not in known
    ]
    return _with_lines(content, tsv_bytes(head, new).decode().splitlines()[1:])


def _with_lines(content: bytes, lines: Sequence[str]) -> bytes:
    """Content with lines at its end; the same bytes when there are none."""
    separator = b"\n" if lines and content and not content.endswith(b"\n") else b""
    return content + separator + "".join(f"{line}\n" for line in lines).encode()
