"""Medians of F, D and D* per organ of the measured abdomens, beside the fit of each organ's mean signal.

DATA=../shared/data/ivim-abdomen
sicnn-app $DATA out/si-cnn participant -d rois=$DATA/derivatives/rois
sicnn-app $DATA out/lsq participant -d rois=$DATA/derivatives/rois --method lsq
python -m benchmarks.accuracy.roi_medians $DATA si-cnn=out/si-cnn lsq=out/lsq
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.common.cells import parser_of
from benchmarks.common.halves import MIN_VOXELS, ORGANS, values_of
from sicnn_app.lsq.fit import fit_biexponential


def mean_signal_fit(signals: np.ndarray, bvals: np.ndarray, organ: np.ndarray) -> tuple[float, float, float]:
    """Least-squares F, D and D* of the organ's mean signal per b-value."""
    nominal = np.unique(bvals)
    means = np.array([signals[organ][:, bvals == b].mean() for b in nominal])
    fit = fit_biexponential(torch.tensor(means / means[0])[None], torch.tensor(nominal))
    return float(fit.f), float(fit.d), float(fit.dstar)


def cell(f: float, d: float, dstar: float) -> str:
    return f"{f:.3f} / {1e3 * d:.2f} / {1e3 * dstar:.0f}"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("outputs", nargs="+", metavar="NAME=OUTPUT_DIR")
    options = parser.parse_args()
    outputs = {name: Path(path) for name, _, path in (item.partition("=") for item in options.outputs)}
    print("F / D (1e-3 mm^2/s) / D* (1e-3 mm^2/s); voxels of the organ inside the mask")
    print()
    print("| run | organ | voxels | fit of the mean signal | " + " | ".join(outputs) + " |")
    print("|---" * (4 + len(outputs)) + "|")
    for segmentation in sorted(options.dataset.glob("derivatives/rois/sub-*/dwi/*_desc-organs_dseg.nii.gz")):
        subject = segmentation.name.split("_")[0]
        labels = values_of(segmentation)
        for image in sorted((options.dataset / subject / "dwi").glob("*_dwi.nii.gz")):
            run = image.name.removesuffix("_dwi.nii.gz")
            bvals = np.loadtxt(image.with_name(f"{run}_dwi.bval"))
            maps = {
                name: [
                    values_of(path / subject / "dwi" / f"{run}_model-ivim_param-{label}_dwimap.nii.gz")
                    for label in ("f", "d", "dstar")
                ]
                for name, path in outputs.items()
            }
            mask = np.all([np.isfinite(found[0]) for found in maps.values()], axis=0)
            for label, name in ORGANS.items():
                organ = (labels == label) & mask
                if organ.sum() < MIN_VOXELS:
                    continue
                cells = [cell(*mean_signal_fit(values_of(image), bvals, organ))]
                cells += [cell(*(np.median(values[organ]) for values in found)) for found in maps.values()]
                print(f"| {run} | {name} | {organ.sum()} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
