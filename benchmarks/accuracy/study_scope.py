"""What becomes of true differences between subjects: a network per subject, one per study, least squares.

    python -m benchmarks.accuracy.study_scope --subjects 10 --snr 15 30 --out study_scope.csv

Every subject is a phantom of one anatomy with tissue values of its own. In each organ the median of a
map is set against the subject's true median, and a line is fitted through the subjects. Its slope tells
what is left of the contrast between subjects (1: all of it; below 1: estimates are drawn towards the
mean), the bias is the mean difference, the residual SD the scatter around the line. The RMSE is over all
voxels of the organ and all subjects. "Study, not refined" applies the network of all subjects as it is,
as published for IVIM-NET.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.common.cells import parser_of
from sicnn_app.methods import estimator
from sicnn_app.phantoms.acquire import DEFAULT_BVALS, acquire, noise_sigma
from sicnn_app.phantoms.phantom import Phantom, make_phantom
from sicnn_app.settings import EstimationSettings
from sicnn_app.sicnn.cropping import Box, training_data
from sicnn_app.sicnn.estimate import build_trainer
from sicnn_app.sicnn.memory_fallback import Attempt
from sicnn_app.sicnn.study import study_case, train_study
from sicnn_app.sicnn.study_network import StudyNetwork

ORGANS = ("liver", "spleen", "pancreas", "kidney_cortex", "muscle")
MAPS = {"f": ("F", 1.0), "d": ("D (1e-4)", 1e4), "dstar": ("D* (1e-3)", 1e3)}
"""Heading and factor of every map in the tables."""

BVALS = np.array(DEFAULT_BVALS["abdomen"], dtype=np.float64)
COLUMNS = ("snr", "method", "organ", "map", "slope", "bias", "residual_sd", "rmse")


@dataclass(frozen=True)
class Subject:
    """A phantom with its noisy signals, shape (X, Y, Z, B), the mask, and the noise of a volume."""

    phantom: Phantom
    signals: np.ndarray
    mask: np.ndarray
    sigma: float

    def organ(self, name: str) -> np.ndarray:
        """Voxels of an organ, shape (X, Y, Z), bool."""
        (code,) = (tissue.code for tissue in self.phantom.tissues if tissue.name == name)
        return self.mask & (self.phantom.labels == code)


def simulate(number: int, shape: tuple[int, int, int], snr: float, variation: float, seed: int) -> Subject:
    """One subject; texture, tissue values and noise differ between numbers and seeds."""
    phantom = make_phantom("abdomen", shape, seed=(seed, number), tissue_variation=variation)
    signals = acquire(phantom, BVALS, snr=snr, seed=(seed, number, 1)).astype(np.float32)
    return Subject(phantom, signals, phantom.mask & (signals[..., 0] > 0), noise_sigma(phantom, snr))


def estimated(
    subject: Subject, settings: EstimationSettings, start: StudyNetwork | None, device: str
) -> dict[str, np.ndarray]:
    """Maps of one subject, from its own training or fit."""
    return (
        estimator(settings.method)
        .estimate(
            subject.signals,
            subject.mask,
            BVALS,
            noise=np.full(BVALS.size, subject.sigma),
            sigma=subject.sigma,
            settings=settings,
            device=device,
            start=start,
        )
        .maps
    )


def applied(subject: Subject, settings: EstimationSettings, network: StudyNetwork) -> dict[str, np.ndarray]:
    """Maps of the study network as it is."""
    box = Box.around(subject.mask)
    data, _ = training_data(subject.signals, box, subject.sigma, np.full(BVALS.size, subject.sigma))
    attempt = Attempt("cpu", network.batch_size, network.tile_size)
    bvals = torch.tensor(BVALS, dtype=torch.float32)
    trainer = build_trainer(
        bvals, torch.ones_like(bvals), network.whitening, settings, attempt, network.weights
    )
    parameters, _ = trainer.predict(data, data.signals)
    return {label: box.put_back(getattr(parameters, label), np.nan, np.float32) for label in MAPS}


def all_maps(
    subjects: list[Subject], settings: EstimationSettings, device: str
) -> Iterator[tuple[str, list[dict[str, np.ndarray]]]]:
    """(method, maps of every subject), one method after the other."""
    least_squares = replace(settings, method="lsq")
    yield "lsq", [estimated(subject, least_squares, None, device) for subject in subjects]
    yield "subject", [estimated(subject, settings, None, device) for subject in subjects]
    cases = {
        f"sub-{number:03d}": study_case(subject.signals, subject.mask, subject.sigma)
        for number, subject in enumerate(subjects)
    }
    study = replace(settings, training_scope="study")
    network = train_study(cases, BVALS, settings=study, device=device)
    yield "study, not refined", [applied(subject, study, network) for subject in subjects]
    yield "study", [estimated(subject, study, network, device) for subject in subjects]


def compare(subjects: list[Subject], maps: list[dict[str, np.ndarray]], organ: str, label: str) -> dict:
    """Slope, bias, residual SD and RMSE of one map in one organ."""
    pairs = [
        (getattr(subject.phantom, label)[voxels], found[label][voxels])
        for subject, found in zip(subjects, maps, strict=True)
        for voxels in [subject.organ(organ)]
    ]
    true, estimate = (
        np.array([np.median(values) for values in column]) for column in zip(*pairs, strict=True)
    )
    slope, offset = np.polyfit(true, estimate, 1)
    residual = estimate - (slope * true + offset)
    return {
        "slope": float(slope),
        "bias": float(np.mean(estimate - true)),
        "residual_sd": math.sqrt(float(residual @ residual) / (len(true) - 2)),
        "rmse": float(np.sqrt(np.mean(np.concatenate([a - b for a, b in pairs]) ** 2))),
    }


def print_table(rows: list[dict], snr: float) -> None:
    """One Markdown table per map: organs and their mean, by method."""
    for label, (heading, factor) in MAPS.items():
        print(f"\nSNR {snr:g}, {heading}\n")
        print("| organ | method | slope | bias | residual SD | RMSE |\n|---|---|---|---|---|---|")
        for row in rows:
            if row["map"] == label:
                numbers = (factor * row[name] for name in ("bias", "residual_sd", "rmse"))
                words = " | ".join(f"{number:.3g}" for number in numbers)
                print(f"| {row['organ']} | {row['method']} | {row['slope']:.2f} | {words} |", flush=True)


def measure(subjects: list[Subject], snr: float, settings: EstimationSettings, device: str) -> list[dict]:
    """One row per organ, method and map; the mean over the organs, of biases without their sign, last."""
    rows = []
    for method, maps in all_maps(subjects, settings, device):
        for label in MAPS:
            found = [
                {"snr": snr, "method": method, "organ": organ, "map": label}
                | compare(subjects, maps, organ, label)
                for organ in ORGANS
            ]
            mean = {name: float(np.mean([abs(row[name]) for row in found])) for name in COLUMNS[-3:]}
            mean["slope"] = float(np.mean([row["slope"] for row in found]))
            rows += [*found, {"snr": snr, "method": method, "organ": "mean", "map": label} | mean]
    order = (*ORGANS, "mean")
    return sorted(rows, key=lambda row: order.index(row["organ"]))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--subjects", type=int, default=10, help="3 or more")
    parser.add_argument("--shape", type=int, nargs=3, default=(64, 60, 2))
    parser.add_argument("--snr", type=float, nargs="+", default=(15.0, 30.0))
    parser.add_argument("--variation", type=float, default=0.15, help="relative SD between subjects")
    parser.add_argument("--method", choices=("si-cnn", "di-cnn", "cnn"), default="si-cnn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="CSV file for all rows")
    options = parser.parse_args()
    if options.subjects < 3:
        parser.error("a line through the subjects needs 3 or more of them")
    torch.set_num_threads(options.threads)
    settings = EstimationSettings(method=options.method, random_seed=options.seed)
    rows = []
    for snr in options.snr:
        subjects = [
            simulate(number, tuple(options.shape), snr, options.variation, options.seed)
            for number in range(options.subjects)
        ]
        found = measure(subjects, snr, settings, options.device)
        print_table(found, snr)
        rows += found
    if options.out is not None:
        with options.out.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
