"""How large the page of single voxels becomes.

python -m benchmarks.speed.voxel_page_size
"""

from __future__ import annotations

import time

import numpy as np

from sicnn_app.derivatives.collect import MeasuredSignals, RunDerivatives
from sicnn_app.ivim.parameters import MAPS, PARAMETERS
from sicnn_app.report.voxels import MAX_BYTES, voxel_page

SHAPES = ((100, 96, 1), (128, 128, 10), (128, 128, 20), (192, 192, 40))
SHARE = 0.5
"""Of the volume, that the body fills."""

BVALUES = 12


def cylinder(shape: tuple[int, int, int], rng: np.random.Generator) -> RunDerivatives:
    """A run of random numbers in a cylinder along the third axis."""
    across, up = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape[:2]), indexing="ij")
    disc = across**2 + up**2 < 4 * SHARE / np.pi
    mask = np.repeat(disc[..., None], shape[2], axis=2)
    maps = {
        spec.label: np.where(mask, rng.uniform(0.1, 1.0, shape), np.nan).astype(np.float32) for spec in MAPS
    }
    measured = MeasuredSignals(
        bvals=np.linspace(0.0, 800.0, BVALUES),
        volumes=np.ones(BVALUES, dtype=int),
        fitted=True,
        in_mask=rng.uniform(0.1, 1.0, (BVALUES, int(mask.sum()))).astype(np.float32),
        baseline=np.ones(shape, dtype=np.float32),
        slices=np.ones((BVALUES, *shape[:2]), dtype=np.float32),
        slice_index=0,
    )
    return RunDerivatives(
        "sub-01",
        maps=maps,
        conventional={label: maps[label] for label in PARAMETERS},
        mask=mask,
        mask_label="body",
        flags=np.zeros(shape, dtype=int),
        affine=np.eye(4),
        measured=measured,
    )


def main() -> None:
    print("| run (voxels in the mask, b-values) | page (MB) | by default | seconds |")
    print("|---|---|---|---|")
    for shape in SHAPES:
        run = cylinder(shape, np.random.default_rng(0))
        start = time.perf_counter()
        _, page = voxel_page(run, report="", version="")
        seconds = time.perf_counter() - start
        print(
            f"| {' x '.join(map(str, shape))} ({int(run.mask.sum()):,}, {BVALUES}) | {len(page) / 1e6:.2f} | "
            f"{'yes' if len(page) <= MAX_BYTES else 'no'} | {seconds:.1f} |"
        )


if __name__ == "__main__":
    main()
