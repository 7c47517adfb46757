"""Errors of F, D and D* with and without denoising before the estimation.

    python -m benchmarks.accuracy.denoising
    python -m benchmarks.accuracy.denoising --snr 20 --directions 1 6 --methods lsq si-cnn --seeds 0 1 2

A simulated abdomen with one volume per b-value, or with several directions and as many repeats of b = 0.
Rows are means over the seeds; "signals" is the error of the averaged signals and "noise" what is taken for
it, both in units of the noise of one volume. SI-CNN scales its thresholds by that noise: as the app finds it
after denoising (``app``), as before denoising (``before``), or from the denoised series alone (``after``),
where repeats agree far better than they are right. Errors of D* are taken where the true F is above 0.02.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from benchmarks.common.cells import parser_of
from benchmarks.common.metrics import errors_of
from sicnn_app.ivim.series import DwiSeries
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.methods import estimator
from sicnn_app.phantoms.acquire import DEFAULT_BVALS, Protocol, acquire, noise_sigma
from sicnn_app.phantoms.phantom import make_phantom
from sicnn_app.preprocess import denoise
from sicnn_app.preprocess.average import average_repeats
from sicnn_app.preprocess.noise import Denoising, estimate_noise, noise_after_denoising
from sicnn_app.settings import EstimationSettings

DENOISING = ("none", "mppca", "patch2self")
NOISE = ("app", "before", "after")


def measure(
    shape: tuple[int, int, int],
    protocol: Protocol,
    snr: float,
    seed: int,
    denoising: str,
    noise_from: str,
    methods: list[str],
) -> dict[str, tuple[float, ...]]:
    """Errors of F, D, D* and the averaged signals, and the noise taken for the last, for every method."""
    phantom = make_phantom("abdomen", shape, seed=seed)
    bvals, bvecs = protocol.gradient_table()
    noisy = acquire(phantom, bvals, snr=snr, seed=seed + 100).astype(np.float32)
    before = DwiSeries(noisy, bvals, bvecs, phantom.affine)

    def redo(series: DwiSeries) -> DwiSeries:
        return denoise.correct(series, kind=denoising).series

    after = before if denoising == "none" else redo(before)
    average = average_repeats(after, phantom.mask)
    if noise_from == "before":
        noise = estimate_noise(before, average_repeats(before, phantom.mask))
    elif noise_from == "app" and denoising != "none":
        noise = noise_after_denoising(Denoising(before, after, redo), after, average)
    else:
        noise = estimate_noise(after, average)
    truth = ivim_signal_maps(average.groups.bvals, phantom.f, phantom.d, phantom.dstar, phantom.s0)
    sigma = noise_sigma(phantom, snr)
    left = float(np.sqrt(np.mean((average.signals - truth)[average.mask] ** 2))) / sigma
    stated = float(np.sqrt(np.mean(noise.averaged[average.mask] ** 2))) / sigma
    found = {}
    for method in methods:
        estimate = estimator(method).estimate(
            average.signals,
            average.mask,
            average.groups.bvals,
            noise=noise.averaged,
            sigma=noise.sigma,
            settings=EstimationSettings(method=method, random_seed=seed),
        )
        found[method] = (*errors_of(phantom, average.mask, estimate.maps), left, stated)
    return found


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(48, 40, 2))
    parser.add_argument("--snr", type=float, nargs="+", default=(10.0, 20.0))
    parser.add_argument("--directions", type=int, nargs="+", default=(1, 3, 6))
    parser.add_argument("--methods", nargs="+", default=("lsq", "si-cnn"))
    parser.add_argument("--denoising", nargs="+", choices=DENOISING, default=DENOISING)
    parser.add_argument("--noise", nargs="+", choices=NOISE, default=("app",))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    print(
        "| volumes | SNR | method | denoising | noise from | RMSE F | RMSE D (1e-4) | RMSE D* (1e-3) "
        "| signals | noise |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for directions in options.directions:
        protocol = Protocol(DEFAULT_BVALS["abdomen"], directions=directions, b0_repeats=directions)
        for snr in options.snr:
            for denoising in options.denoising:
                for noise_from in options.noise if denoising != "none" else ("app",):
                    runs = [
                        measure(
                            tuple(options.shape),
                            protocol,
                            snr,
                            seed,
                            denoising,
                            noise_from,
                            list(options.methods),
                        )
                        for seed in options.seeds
                    ]
                    for method in options.methods:
                        f, d, dstar, left, stated = np.mean([run[method] for run in runs], axis=0)
                        print(
                            f"| {protocol.gradient_table()[0].size} | {snr:g} | {method} | {denoising} "
                            f"| {noise_from} | {f:.4f} | {1e4 * d:.2f} | {1e3 * dstar:.1f} | {left:.2f} "
                            f"| {stated:.2f} |",
                            flush=True,
                        )
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
