"""Worker of :mod:`benchmarks.peers` for the app's own methods; :mod:`benchmarks.peers.worker` has the others.

PYTHON benchmarks/peers/app.py METHOD problem.npz result.npz
"""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np


def own(problem: SimpleNamespace, method: str) -> dict:
    """A method of this app at its defaults, refined with the signals before denoising."""
    # What the methods import when they are used is imported before the clock runs.
    import sicnn_app.lsq.estimate
    import sicnn_app.sicnn.estimate  # noqa: F401
    from sicnn_app.ivim.series import Evidence
    from sicnn_app.methods import estimator
    from sicnn_app.settings import EstimationSettings

    def volume(values: np.ndarray) -> np.ndarray:
        image = np.zeros((*problem.mask.shape, values.shape[1]), dtype=np.float32)
        image[problem.mask] = values
        return image

    evidence = None
    if hasattr(problem, "evidence_signals"):
        evidence = Evidence(
            volume(problem.evidence_signals),
            volume(problem.evidence_noise),
            "before denoising",
            left=problem.left,
            left_in_shape=problem.left_in_shape,
        )
    epochs = problem.epochs if method == "cnn" and hasattr(problem, "epochs") else None
    settings = EstimationSettings(method=method, random_seed=problem.seed, epochs=epochs)
    signals, noise = volume(problem.signals), volume(problem.noise)
    start = time.process_time()
    estimate = estimator(method).estimate(
        signals,
        problem.mask,
        problem.bvals,
        noise=noise,
        volumes=problem.volumes if hasattr(problem, "volumes") else None,
        sigma=problem.sigma,
        settings=settings,
        evidence=evidence,
    )
    seconds = time.process_time() - start
    maps = {label: estimate.maps[label][problem.mask] for label in ("f", "d", "dstar")}
    taken = sum(row.get("epochs", row.get("iterations", 0)) for row in estimate.history)
    return {**maps, "seconds": seconds, "epochs": taken}


def least_squares(problem: SimpleNamespace) -> dict:
    """Least squares of this app."""
    return own(problem, "lsq")


def plain_network(problem: SimpleNamespace) -> dict:
    """The network of this app alone, for the ``epochs`` of SI-CNN where they are known."""
    return own(problem, "cnn")


def si_cnn(problem: SimpleNamespace) -> dict:
    """SI-CNN at the defaults of the app."""
    return own(problem, "si-cnn")


if __name__ == "__main__":
    # The folder of a script is the first that Python looks into.
    from worker import main  # type: ignore[import-not-found]

    main({"lsq": least_squares, "cnn": plain_network, "si-cnn": si_cnn})
