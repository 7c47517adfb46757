"""What averaging similar voxels comes to when the tissues are known: references, not bounds.

    python -m benchmarks.accuracy.floor --out docs/floor

- tissue means known: every voxel has the mean of its tissue. What is left is the texture within tissues, half
  of whose variance is independent from voxel to voxel: averaging cannot recover it.
- true neighbours: the observed signals of all voxels of the same tissue within the search window, brought
  together by the true labels and the true S0, then fitted by least squares.

Simulated abdomen, 12 b-values, one volume each, held-out seeds; root mean square errors. Seconds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.common.arms import mean_of
from benchmarks.common.cells import (
    comma_separated,
    command_line,
    markdown,
    parser_of,
    provenance,
    spread,
    write_tables,
)
from benchmarks.common.metrics import FORMS, LABELS, NAMES, SCALES, map_errors
from benchmarks.common.scenarios import HELD_OUT_SEEDS, Measurement, Scenario, measure
from sicnn_app.lsq.estimate import estimate_lsq
from sicnn_app.settings import EstimationSettings, SimilaritySettings
from sicnn_app.sicnn.neighbours import similar_neighbour_sum

SNRS = (8.0, 15.0, 50.0)
RADII = (3, EstimationSettings().neighbour_radius, 10)

SAME_LABEL = SimilaritySettings("maximum", "equal", None)


def tissue_means(measured: Measurement) -> dict[str, np.ndarray]:
    """Maps in which every voxel has the mean of its tissue."""
    phantom = measured.phantom
    counts = np.maximum(np.bincount(phantom.labels.ravel()), 1)
    return {
        label: (np.bincount(phantom.labels.ravel(), getattr(phantom, label).ravel()) / counts)[phantom.labels]
        for label in LABELS
    }


def true_neighbours(measured: Measurement, radius: int) -> dict[str, np.ndarray]:
    """Least-squares maps of the mean observed curves of all voxels of a tissue in the window."""
    labels, s0, signals = (
        torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, 2, 0), dtype=np.float32))
        for values in (measured.phantom.labels, measured.phantom.s0, measured.signals)
    )
    mask = torch.from_numpy(np.moveaxis(measured.mask, 2, 0))
    values = torch.cat([signals.movedim(-1, 1), s0[:, None]], dim=1)
    half = torch.full(mask.shape, 0.5)
    sums, *_ = similar_neighbour_sum(labels[:, None], values, mask, half, radius, similarity=SAME_LABEL)
    curves = sums[:, :-1] / torch.where(mask, sums[:, -1], 1.0)[:, None]
    averaged = np.moveaxis(curves.movedim(1, -1).numpy(), 0, 2)
    return estimate_lsq(averaged, measured.mask, measured.bvals).maps


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--snr", type=float, nargs="+", default=SNRS)
    parser.add_argument("--seeds", type=int, nargs="+", default=HELD_OUT_SEEDS)
    options = parser.parse_args()
    rows = []
    for snr in options.snr:
        measured = [measure(Scenario(snr, seed)) for seed in options.seeds]
        references = {"tissue means known": tissue_means}
        for radius in sorted(set(RADII)):
            references[f"true neighbours, radius {radius}"] = lambda one, radius=radius: true_neighbours(
                one, radius
            )
        for name, maps in references.items():
            found = [map_errors(one.phantom, one.mask, maps(one)) for one in measured]
            rows.append(
                [
                    f"{snr:g}",
                    name,
                    *(
                        spread(
                            (SCALES[label] * one[f"rmse_{label}"] for one in found),
                            FORMS[label],
                        )
                        for label in LABELS
                    ),
                    f"{mean_of(found, 'edge_f'):.4f}",
                ]
            )
    columns = ["SNR", "reference", *NAMES.values(), "edge F"]
    text = f"Made by {provenance(command_line())}."
    write_tables(
        options.out, "floor", f"{text}\n\n{markdown(columns, rows)}\n", comma_separated(columns, rows)
    )
    print(markdown(columns, rows))


if __name__ == "__main__":
    main()
