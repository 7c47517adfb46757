"""Output folders with several runs, made without estimating anything, and what the group makes of them."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
from app_runs import App, Call
from bids_datasets import Dataset
from factories import make_result

from sicnn_app.derivatives.write import write_run

SHAPE = (6, 7, 2)


def add_run(
    tmp_path: Path,
    *,
    factor: float = 1.0,
    settings: dict | None = None,
    seed: int = 0,
    comparison: bool = False,
    **entities: str,
) -> Path:
    """Write a run of random maps, some times ``factor``, and an empty report; gives the output folder."""
    out = tmp_path / "out"
    result = make_result(
        tmp_path, entities=entities, shape=SHAPE, seed=seed, ensemble=seed % 2 == 0, comparison=comparison
    )
    maps = dict(result.estimate.maps)
    maps |= {label: maps[label] * np.float32(factor) for label in ("f", "d", "dstar")}
    result = replace(
        result,
        estimate=replace(result.estimate, maps=maps),
        settings={**result.settings, "random_seed": 0, **(settings or {})},
    )
    write_run(result, out, bids_dir=tmp_path / "bids", dataset_links={})
    session = f"_ses-{entities['ses']}" if "ses" in entities else ""
    (out / f"sub-{entities['sub']}{session}.html").write_text(f'<p id="run-{result.run.name}">')
    return out


def gather(app: App, out: Path, *options: str | Path) -> Call:
    """Call the level ``group`` with a dataset that is not there."""
    return app.raw(out.parent / "no dataset", out, "group", *options)


def qc_path(out: Path, name: str) -> Path:
    """Quality table of a run of a participant without sessions."""
    return out / name.split("_")[0] / "dwi" / f"{name}_desc-ivim_qc.tsv"


def change_qc(out: Path, name: str, **cells: str) -> None:
    """Put other texts into the quality table of a run."""
    path = qc_path(out, name)
    head, row = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
    changed = [cells.get(column, cell) for column, cell in zip(head, row, strict=True)]
    path.write_text("\t".join(head) + "\n" + "\t".join(changed) + "\n", encoding="utf-8")


def table(out: Path, name: str = "group_ivim") -> list[dict[str, str]]:
    with (out / f"{name}.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def sidecar(out: Path, name: str = "group_ivim") -> dict:
    return json.loads((out / f"{name}.json").read_text(encoding="utf-8"))


def group_files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("group*"))}


def chart_data(html: str) -> dict:
    """What the script of the page draws."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html)[1])


def strips(html: str, title: str, region: int = 0) -> dict[str, dict]:
    """Strips of one chart, by their kind; values by the name of their run."""
    found = chart_data(html)
    (measure,) = [place for place, item in enumerate(found["measures"]) if item["title"] == title]
    return {
        strip["kind"]: strip
        | {
            "values": {
                found["runs"][run][0]: x for run, x in zip(strip["runs"], strip["values"], strict=True)
            }
        }
        for strip in found["strips"]
        if strip["measure"] == measure and strip["region"] == region
    }


def map_path(out: Path, name: str, label: str, ending: str = "dwimap.nii.gz") -> Path:
    folders = [part for part in name.split("_") if part.startswith(("sub-", "ses-"))]
    return out.joinpath(*folders, "dwi", f"{name}_model-ivim_param-{label}_{ending}")


def add_segmentation(
    dataset: Dataset, relative: str, labels: np.ndarray, like: Path, *, affine: np.ndarray | None = None
) -> Path:
    """Write a segmentation on the grid of a map, or with another affine."""
    image = nib.load(like)
    path = dataset.root / f"{relative}_dseg.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    header = image.header.copy()
    header.set_data_dtype(np.uint8)
    made = nib.Nifti1Image(labels.astype(np.uint8), image.affine if affine is None else affine, header)
    nib.save(made, path)
    return path
