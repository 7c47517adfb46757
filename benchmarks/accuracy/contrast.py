"""Whether tissues of the brain can be told apart in F: deep grey from cortical and white matter.

    python -m benchmarks.accuracy.contrast
    python -m benchmarks.accuracy.contrast --snr 20 --seeds 41 42

Medians of F in deep grey, cortical grey and white matter, true 7 to 8, 6 and 4 to 5 %, and the area under
the curve by which a voxel's F tells deep grey from white matter: .5 by chance, 1 without error. Brain with
its own contrasts (docs/truths.md), one volume per b-value; means over the seeds, and in how many of them the
order of the medians is the true one. A minute or two per seed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.stats import rankdata

from benchmarks.accuracy.refinement import estimates, measured
from benchmarks.common.cells import Cells, markdown, parser_of

TISSUES = ("deep_grey_matter", "cortical_grey_matter", "white_matter")
"""By falling F."""


def area_under_curve(high: np.ndarray, low: np.ndarray) -> float:
    """Probability that a value of ``high`` exceeds one of ``low``; ties count half."""
    ranks = rankdata(np.concatenate([high, low]))[: high.size]
    return float((ranks.mean() - (high.size + 1) / 2) / low.size)


def contrasts(snr: float, seed: int, shape: tuple[int, int, int]) -> dict[str, list[float]]:
    """Median F of the tissues and the area under the curve, by method; "truth" among them."""
    phantom, series, options = measured("brain", snr, seed, 1, shape)
    found = estimates(series, phantom.mask, seed=seed, **options)
    codes = {tissue.name: tissue.code for tissue in phantom.tissues}
    inside = [found.mask & (phantom.labels == codes[name]) for name in TISSUES]
    maps = {"truth": phantom.f, **{name: one.maps["f"] for name, one in found.maps.items()}}
    return {
        name: [
            *(float(np.median(f[where])) for where in inside),
            area_under_curve(f[inside[0]], f[inside[-1]]),
        ]
        for name, f in maps.items()
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--snr", type=float, nargs="+", default=(50.0,))
    parser.add_argument("--seeds", type=int, nargs="+", default=tuple(range(41, 46)))
    parser.add_argument("--shape", type=int, nargs=3, default=(64, 60, 4))
    parser.add_argument("--out", type=Path, default=Path("out/contrast"), help="for cells.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells(options.out / "cells.jsonl")
    rows = []
    for snr in options.snr:
        found = [
            cells.get(which, partial(contrasts, **which))
            for which in ({"snr": snr, "seed": seed, "shape": tuple(options.shape)} for seed in options.seeds)
        ]
        for name in found[0]:
            values = np.array([one[name] for one in found])
            ordered = np.all(np.diff(values[:, :3], axis=1) < 0, axis=1).sum()
            medians = (f"{value:.3f}" for value in values[:, :3].mean(axis=0))
            rows.append(
                [f"{snr:g}", name, *medians, f"{ordered} of {len(values)}", f"{values[:, 3].mean():.2f}"]
            )
    columns = ["SNR", "F of", "deep grey", "cortex", "white matter", "in the true order", "area under curve"]
    print(markdown(columns, rows))


if __name__ == "__main__":
    main()
