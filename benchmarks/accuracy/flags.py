"""Where flags fire: in voxels whose maps are wrong, and in those that are right.

    python -m benchmarks.accuracy.flags
    python -m benchmarks.accuracy.flags --truths lesions --snr 10 --volumes 6

On truths of ``benchmarks.common.truths`` SI-CNN is trained after MP-PCA and refined as the app does it, and
its voxels are flagged. A voxel is wrong where F is off by more than .05 and half of itself, or D by more than
30 %; right where F is within .025 or a quarter, and D within 15 %; what lies between counts as neither. Of
both kinds: the share that carries a flag, wrong / right, %. A minute per truth with one volume per b-value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.accuracy.refinement import Found, simulated
from benchmarks.common.cells import markdown, parser_of
from benchmarks.common.metrics import voxels_of
from benchmarks.common.truths import TRUTHS
from sicnn_app.ivim.flags import doubts
from sicnn_app.ivim.own_signals import objections
from sicnn_app.phantoms.phantom import Phantom
from sicnn_app.settings import EstimationSettings

SHOWN = (
    "any flag",
    "residual_above_noise",
    "pulled_from_own_signals",
    "imprecise",
    "parameter_at_bound",
    "dstar_undefined",
)


def judged(phantom: Phantom, found: Found) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Wrong voxels and right ones among all, and those of every reason, bool volumes."""
    estimate, mask = found.maps["MP-PCA + network, refined"], found.mask
    maps, plain = estimate.maps, found.plain
    known = voxels_of(phantom, mask)["f"]
    f, d = (np.abs(maps[label] - getattr(phantom, label)) for label in ("f", "d"))
    wrong = (f > np.maximum(0.05, phantom.f / 2)) | (d > 0.3 * phantom.d)
    right = (f <= np.maximum(0.025, phantom.f / 4)) & (d <= 0.15 * phantom.d)
    against = objections(plain.signals, plain.noise, plain.bvals, maps, mask, prior=estimate.prior)
    reasons = doubts(
        maps,
        mask,
        vars(EstimationSettings().bounds),
        plain.sigma,
        against,
        estimate.neighbour_count,
        np.where(mask, found.denoised.signals[..., 0], 1.0),
    )
    return wrong & known, right & known, {"any flag": np.any(list(reasons.values()), axis=0), **reasons}


def table(names: Sequence[str], snrs: Sequence[float], volumes: Sequence[int], seed: int) -> None:
    """Print the shares of every truth."""
    print(markdown(["truth", "SNR", "volumes per b", "wrong voxels, %", *SHOWN], []))
    for truth in names:
        for snr in snrs:
            for count in volumes:
                phantom, found = simulated(truth, snr, seed, count)
                wrong, right, reasons = judged(phantom, found)
                share = f"{100 * wrong.sum() / found.mask.sum():.1f}"
                cells = [
                    f"{_percent(reasons[one], wrong)} / {_percent(reasons[one], right)}" for one in SHOWN
                ]
                print("| " + " | ".join([truth, f"{snr:g}", str(count), share, *cells]) + " |", flush=True)


def _percent(flagged: np.ndarray, voxels: np.ndarray) -> str:
    return f"{100 * flagged[voxels].mean():.3g}" if voxels.any() else "-"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--truths", nargs="+", choices=TRUTHS, default=tuple(TRUTHS))
    parser.add_argument("--snr", type=float, nargs="+", default=(20.0,))
    parser.add_argument("--volumes", type=int, nargs="+", default=(1,), help="per b-value")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table(options.truths, options.snr, options.volumes, options.seed)


if __name__ == "__main__":
    main()
