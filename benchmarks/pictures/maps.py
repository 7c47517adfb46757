"""Draw ``docs/images/maps.png``: F, D and D* of ``bids_examples/abdomen`` by two methods, and the truth.

python -m benchmarks.pictures.maps
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from sicnn_app.cli.main import main as run_app

ROOT = Path(__file__).parents[2]
DATASET = ROOT / "bids_examples" / "abdomen"
TARGET = ROOT / "docs" / "images" / "maps.png"
SLICE = 1
SHOWN = (
    ("f", "F (%)", 100, Normalize(0, 50), "magma"),
    ("d", "D (10⁻³ mm²/s)", 1e3, Normalize(0, 3), "viridis"),
    ("dstar", "D* (10⁻³ mm²/s)", 1e3, LogNorm(5, 200), "plasma"),
)
"""With the ranges of the report of a body."""


def maps_of(folder: Path) -> list[np.ndarray]:
    """The maps of one slice, in the units shown, as (rows, columns)."""
    found = []
    for label, _, factor, _, _ in SHOWN:
        path = next(folder.glob(f"sub-01/dwi/*_model-ivim_param-{label}_dwimap.nii.gz"))
        image = nib.as_closest_canonical(nib.load(path))
        found.append(factor * np.asarray(image.dataobj)[::-1, ::-1, SLICE].T)
    return found


def main() -> None:
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for method, title in (("lsq", "least squares"), ("si-cnn", "SI-CNN")):
            output = Path(folder) / method
            code = run_app([str(DATASET), str(output), "participant", "--method", method])
            if code:
                raise SystemExit(code)
            rows[title] = maps_of(output)
    rows["truth"] = maps_of(DATASET / "derivatives" / "truth")
    figure = Figure(figsize=(9, 8.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(SHOWN))
    for line, (title, maps) in zip(axes, rows.items(), strict=True):
        for place, values, (_, label, _, scale, colours) in zip(line, maps, SHOWN, strict=True):
            shown = place.imshow(values, norm=scale, cmap=colours, interpolation="nearest")
            place.set_facecolor("black")
            place.set(xticks=[], yticks=[])
            if title == "truth":
                figure.colorbar(
                    shown, ax=axes[:, list(line).index(place)], location="bottom", label=label, shrink=0.9
                )
        line[0].set_ylabel(title)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(TARGET)
    print(TARGET)


if __name__ == "__main__":
    main()
