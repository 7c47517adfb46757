"""What becomes of true differences between subjects: a network per subject, one per study, least squares.

    python -m benchmarks.accuracy.study_scope --subjects 10 --snr 15 30 --out docs/study_scope.csv

Every subject is a phantom of one anatomy with tissue values of its own, one volume per b-value, denoised by
MP-PCA; all methods are given the same signals, and SI-CNN is at the app's defaults, with its refinement. In
each organ the median of a map is set against the subject's true median, and a line is fitted through the
subjects. Its slope tells what is left of the contrast between subjects (1: all of it; below 1: estimates are
drawn towards the mean), the bias is the mean difference, the scatter is that around the line. The RMSE is
over all voxels of the organ and all subjects. The table has means over the organs, of biases without their
sign; all organs are in the CSV file. "Per study, as it is" applies the network of all subjects without a
training of a subject's own and without refinement, as published for IVIM-NET. Twenty seconds per subject and
SNR on one core.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.accuracy.averages import fitted
from benchmarks.accuracy.controls import triple
from benchmarks.accuracy.refinement import prepared_of
from benchmarks.common.arms import estimated
from benchmarks.common.cells import command_line, markdown, parser_of, provenance
from benchmarks.common.metrics import LABELS, SCALES
from sicnn_app.ivim.series import AveragedSignals
from sicnn_app.phantoms.acquire import DEFAULT_BVALS, acquire_series
from sicnn_app.phantoms.phantom import Phantom, make_phantom
from sicnn_app.preprocess.steps import Prepared
from sicnn_app.settings import EstimationSettings
from sicnn_app.sicnn.cropping import Box, training_data
from sicnn_app.sicnn.estimate import build_trainer
from sicnn_app.sicnn.memory_fallback import Attempt
from sicnn_app.sicnn.study import study_case, train_study
from sicnn_app.sicnn.study_network import StudyNetwork

ORGANS = ("liver", "spleen", "pancreas", "kidney_cortex", "muscle")
BVALS = np.array(DEFAULT_BVALS["abdomen"], dtype=np.float64)
COLUMNS = ("snr", "method", "organ", "map", "slope", "bias", "scatter", "rmse")


@dataclass(frozen=True)
class Subject:
    """A phantom and its measurement, denoised and averaged."""

    phantom: Phantom
    prepared: Prepared

    @property
    def given(self) -> AveragedSignals:
        """What every method is given."""
        return self.prepared.averaged

    def organ(self, name: str) -> np.ndarray:
        """Voxels of an organ, shape (X, Y, Z), bool."""
        (code,) = (tissue.code for tissue in self.phantom.tissues if tissue.name == name)
        return self.given.mask & (self.phantom.labels == code)


def simulate(number: int, shape: tuple[int, int, int], snr: float, variation: float, seed: int) -> Subject:
    """One subject; texture, tissue values and noise differ between numbers and seeds."""
    phantom = make_phantom("abdomen", shape, seed=(seed, number), tissue_variation=variation)
    series = acquire_series(phantom, BVALS, snr=snr, seed=(seed, number, 1)).series
    return Subject(phantom, prepared_of(series, phantom.mask, "mppca", anatomy="body", average="arithmetic"))


def trained(
    subject: Subject, settings: EstimationSettings, start: StudyNetwork | None, device: str
) -> dict[str, np.ndarray]:
    """Maps of one subject, from its own training."""
    given, evidence = subject.given, subject.prepared.evidence
    others = {"volumes": given.repeats, "evidence": evidence, "device": device, "start": start}
    return estimated(given, settings, **others).maps


def applied(subject: Subject, settings: EstimationSettings, network: StudyNetwork) -> dict[str, np.ndarray]:
    """Maps of the study network as it is."""
    given = subject.given
    box = Box.around(given.mask)
    data, _ = training_data(given.signals, box, given.sigma, given.noise)
    attempt = Attempt("cpu", network.batch_size, network.tile_size)
    bvals = torch.tensor(given.bvals, dtype=torch.float32)
    trainer = build_trainer(
        bvals, torch.ones_like(bvals), network.whitening, settings, attempt, network.weights
    )
    parameters, _ = trainer.predict(data, data.signals)
    return {label: box.put_back(getattr(parameters, label), np.nan, np.float32) for label in LABELS}


def all_maps(
    subjects: list[Subject], settings: EstimationSettings, device: str
) -> Iterator[tuple[str, list[dict[str, np.ndarray]]]]:
    """(method, maps of every subject), one method after the other."""
    yield "MP-PCA + lsq", [fitted(subject.given).maps for subject in subjects]
    yield "per subject", [trained(subject, settings, None, device) for subject in subjects]
    cases = {
        f"sub-{number:03d}": study_case(subject.given.signals, subject.given.mask, subject.given.sigma)
        for number, subject in enumerate(subjects)
    }
    study = replace(settings, training_scope="study")
    network = train_study(cases, subjects[0].given.bvals, settings=study, device=device)
    yield "per study, as it is", [applied(subject, study, network) for subject in subjects]
    yield "per study, then per subject", [trained(subject, study, network, device) for subject in subjects]


def compare(subjects: list[Subject], maps: list[dict[str, np.ndarray]], organ: str, label: str) -> dict:
    """Slope, bias, scatter and RMSE of one map in one organ."""
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
        "scatter": math.sqrt(float(residual @ residual) / (len(true) - 2)),
        "rmse": float(np.sqrt(np.mean(np.concatenate([a - b for a, b in pairs]) ** 2))),
    }


def table(rows: list[dict]) -> str:
    """Means over the organs, a row per SNR and method; bias, scatter and RMSE as F / D / D*."""
    found: dict[tuple[float, str], dict[str, list[float]]] = {}
    for row in rows:
        if row["organ"] == "mean":
            columns = found.setdefault((row["snr"], row["method"]), {name: [] for name in COLUMNS[-4:]})
            for name, values in columns.items():
                values.append(row[name] * (1.0 if name == "slope" else SCALES[row["map"]]))
    cells = [
        [f"{snr:g}", method]
        + [triple(np.array(values), ".2f" if name == "slope" else ".3g") for name, values in columns.items()]
        for (snr, method), columns in found.items()
    ]
    return markdown(["SNR", "trained", "slope", "bias", "scatter", "RMSE"], cells)


def measure(subjects: list[Subject], snr: float, settings: EstimationSettings, device: str) -> list[dict]:
    """One row per organ, method and map; the mean over the organs, of biases without their sign, last."""
    rows = []
    for method, maps in all_maps(subjects, settings, device):
        for label in LABELS:
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
    parser.add_argument("--threads", type=int, default=1)
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
        rows += measure(subjects, snr, settings, options.device)
    print(f"Made by {provenance(command_line())}.\n\n{table(rows)}")
    if options.out is not None:
        with options.out.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
