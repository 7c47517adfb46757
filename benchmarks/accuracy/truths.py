"""How alike two seeds of a truth are, and how far a fit of signals without noise is from it.

    python -m benchmarks.accuracy.truths

Correlation of the F maps of two seeds over the voxels of both bodies, mean and largest of all pairs of five
seeds with the variation between subjects of ``sicnn-simulate``; and least squares of the true signals, root
mean square errors of F, D and D* where F is 0.02 to 0.9: 0 but for mixtures, which no bi-exponential
describes, and where D* lies below the interval of the fit. Three minutes.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from benchmarks.common.cells import parser_of
from benchmarks.common.metrics import LABELS
from benchmarks.common.truths import TRUTHS
from sicnn_app.methods import estimator
from sicnn_app.phantoms.acquire import DEFAULT_BVALS
from sicnn_app.phantoms.phantom import Phantom, make_phantom
from sicnn_app.settings import EstimationSettings

SHAPE = (64, 60, 4)
VARIATION = 0.05


def likeness(first: Phantom, second: Phantom) -> float:
    """Correlation of F over the voxels of both bodies."""
    both = first.mask & second.mask
    return float(np.corrcoef(first.f[both], second.f[both])[0, 1])


def misfit(phantom: Phantom, voxels: np.ndarray) -> list[float]:
    """Root mean square errors of a fit without noise over voxels, shape (X, Y, Z), bool; F, D, D*."""
    bvals = np.array(DEFAULT_BVALS[phantom.preset], dtype=np.float64)
    signals = phantom.signals(bvals).astype(np.float32)
    nearly_none = 1e-3
    maps = (
        estimator("lsq")
        .estimate(
            signals,
            voxels & (signals[..., 0] > 0),
            bvals,
            noise=np.full(bvals.size, nearly_none),
            sigma=nearly_none,
            settings=EstimationSettings(method="lsq"),
        )
        .maps
    )
    return [
        float(np.sqrt(np.nanmean((maps[label] - getattr(phantom, label))[voxels] ** 2))) for label in LABELS
    ]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    print("| truth | r(F), mean | largest | voxels | F | D | D* |\n|---|---|---|---|---|---|---|")
    for name, (preset, truth, _) in TRUTHS.items():
        phantoms = [
            make_phantom(preset, SHAPE, seed=seed, tissue_variation=VARIATION, truth=truth)
            for seed in range(options.seeds)
        ]
        alike = [likeness(*pair) for pair in combinations(phantoms, 2)]
        phantom = phantoms[0]
        perfused = phantom.mask & (phantom.f > 0.02) & (phantom.f < 0.9)
        for words, voxels in (("pure", phantom.purity == 1), ("mixed", phantom.purity < 1)):
            if (chosen := perfused & voxels).any():
                f, d, dstar = misfit(phantom, chosen)
                alikeness = f"{np.mean(alike):.2f} | {max(alike):.2f}"
                print(
                    f"| {name} | {alikeness} | {words} | {f:.4f} | {1e4 * d:.3f}e-4 | {1e3 * dstar:.2f}e-3 |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
