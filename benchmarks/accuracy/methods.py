"""Errors of every method on a simulated phantom, side by side.

    python -m benchmarks.accuracy.methods --preset abdomen --snr 8 15 30 50
    python -m benchmarks.accuracy.methods --snr 15 --tissues        # also the mean error of every tissue

The plain network (cnn) has the seed, the settings and the total number of epochs of si-cnn. Errors of D* are
taken where the true F is above 0.02, errors of D outside of vessels, where F is 1 and D has no meaning.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.common.cells import parser_of
from benchmarks.common.methods import epochs_of, with_all_methods
from benchmarks.common.metrics import map_errors
from benchmarks.common.scenarios import Measurement
from sicnn_app.phantoms.acquire import DEFAULT_BVALS, acquire, noise_sigma
from sicnn_app.phantoms.phantom import Phantom, make_phantom
from sicnn_app.settings import EstimationSettings


def errors(phantom: Phantom, mask: np.ndarray, maps: dict[str, np.ndarray]) -> tuple[float, float, float]:
    """Root mean squared errors of F, D and D* over the voxels where each has a meaning."""
    found = map_errors(phantom, mask, maps)
    return found["rmse_f"], found["rmse_d"], found["rmse_dstar"]


def biases(phantom: Phantom, mask: np.ndarray, maps: dict[str, np.ndarray]) -> list[tuple]:
    """(tissue, voxels, mean error of F and of D) for every tissue of the phantom."""
    found = []
    for index, tissue in enumerate(phantom.tissues):
        here = mask & (phantom.labels == index + 1)
        if here.any():
            means = (float(np.mean((maps[label] - getattr(phantom, label))[here])) for label in ("f", "d"))
            found.append((tissue.name, int(here.sum()), *means))
    return found


def measure(preset: str, shape: tuple[int, int, int], snr: float, seed: int) -> list[tuple]:
    """(method, RMSE of F, D and D*, epochs, biases) for every method on one noisy phantom."""
    phantom = make_phantom(preset, shape, seed=seed)
    bvals = np.array(DEFAULT_BVALS[preset], dtype=np.float64)
    signals = acquire(phantom, bvals, snr=snr, seed=seed + 100).astype(np.float32)
    sigma, mask = noise_sigma(phantom, snr), phantom.mask & (signals[..., 0] > 0)
    measured = Measurement(phantom, signals, signals, mask, bvals, sigma, np.full(len(bvals), sigma))
    return [
        (method, *errors(phantom, mask, found.maps), epochs_of(found), biases(phantom, mask, found.maps))
        for method, (found, _) in with_all_methods(measured, EstimationSettings(random_seed=seed)).items()
    ][::-1]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--preset", choices=tuple(DEFAULT_BVALS), default="abdomen")
    parser.add_argument("--shape", type=int, nargs=3, default=(64, 60, 2))
    parser.add_argument("--snr", type=float, nargs="+", default=(8.0, 15.0, 30.0, 50.0))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0,))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tissues", action="store_true", help="print the mean errors of every tissue too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| SNR | seed | method | RMSE F | RMSE D (1e-4) | RMSE D* (1e-3) | epochs or steps |")
    print("|---|---|---|---|---|---|---|")
    tables = []
    for snr in options.snr:
        for seed in options.seeds:
            for method, f, d, dstar, epochs, tissues in measure(
                options.preset, tuple(options.shape), snr, seed
            ):
                print(
                    f"| {snr:g} | {seed} | {method} | {f:.4f} | {1e4 * d:.2f} | {1e3 * dstar:.1f} "
                    f"| {epochs} |",
                    flush=True,
                )
                tables.append((f"SNR {snr:g}, seed {seed}, {method}", tissues))
    if options.tissues:
        for title, tissues in tables:
            print(f"\n{title}\n\n| tissue | voxels | mean error of F | of D (1e-4) |\n|---|---|---|---|")
            for name, voxels, f, d in tissues:
                print(f"| {name} | {voxels} | {f:+.3f} | {1e4 * d:+.2f} |")


if __name__ == "__main__":
    main()
