"""A measured abdomen as a phantom: the maps that a method estimates from it become the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.common.arms import estimated
from benchmarks.common.halves import files_of
from sicnn_app.bids.load import load_run
from sicnn_app.bids.masks import load_mask
from sicnn_app.ivim.run import DwiRun, SourceImage
from sicnn_app.phantoms.phantom import Phantom
from sicnn_app.phantoms.tissues import Tissue
from sicnn_app.preprocess.steps import prepare
from sicnn_app.settings import EstimationSettings, PreprocessingSettings

VESSEL_F = 0.9
"""Where the true perfusion fraction is above, no tissue is left whose D could be wrong."""

TISSUES = tuple(
    Tissue(code, name, float("nan"), float("nan"), float("nan"), float("nan"), "measured voxel by voxel", "")
    for code, name in ((1, "tissue"), (2, "vessel"))
)


def missing_files(data: Path, runs: tuple[str, ...]) -> list[Path]:
    """Files of the dataset that are needed and not there."""
    needed = (files_of(data, run)[name] for run in runs for name in ("image", "bvals", "mask"))
    return [path for path in needed if not path.is_file()]


def in_vivo_phantom(data: Path, run: str, settings: EstimationSettings) -> Phantom:
    """Maps estimated from all volumes of a run.

    Parameters
    ----------
    data : Path
        Folder of the abdominal dataset.
    run : str
        ``sub-01_acq-T70``, say.
    settings : EstimationSettings
        Of the estimation that makes the truth.
    """
    files = files_of(data, run)
    entities = dict(part.split("-", 1) for part in run.split("_"))
    series = load_run(
        DwiRun(entities, (SourceImage(files["image"], files["bvals"], None),)), bvals_file=None
    ).series
    body, _ = load_mask(files["mask"], series.affine, shape=series.signals.shape[:3])
    plain = PreprocessingSettings(denoise="none", motion_correction="none")
    averaged = prepare(series, anatomy="body", external_mask=body, settings=plain).averaged
    maps = estimated(averaged, settings).maps
    inside = averaged.mask
    truth = {
        label: np.where(inside, maps[label], 0.0).astype(np.float64) for label in ("f", "d", "dstar", "s0")
    }
    labels = np.where(inside, np.where(truth["f"] > VESSEL_F, 2, 1), 0).astype(np.int16)
    return Phantom(
        preset="abdomen",
        labels=labels,
        mask=inside,
        tissues=TISSUES,
        voxel_size=(1.0, 1.0, 1.0),
        affine=series.affine,
        **truth,
    )
