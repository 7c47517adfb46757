"""Draw ``docs/images/truths.png``: one slice of the truths of the benchmarks, and of a volume of each.

python -m benchmarks.pictures.truths
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.common.truths import TRUTHS
from sicnn_app.phantoms.acquire import acquire_series
from sicnn_app.phantoms.phantom import make_phantom

TARGET = Path(__file__).parents[2] / "docs" / "images" / "truths.png"
SHOWN = (("f", "F", "magma"), ("d", "D", "viridis"), ("dstar", "D*", "plasma"), ("s0", "S0", "gray"))
ACQUIRED = 100.0
"""b-value of the volume, s/mm^2."""

SNR = 20.0
COLOURS = 64
SLICE = 4


def main() -> None:
    figure = Figure(figsize=(8.5, 14), dpi=72, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    titles = [*(symbol for _, symbol, _ in SHOWN), f"volume, b = {ACQUIRED:g}, SNR {SNR:g}"]
    lines = figure.subplots(len(TRUTHS), len(titles))
    for line, (name, (preset, truth, disturbances)) in zip(lines, TRUTHS.items(), strict=True):
        phantom = make_phantom(preset, seed=1, tissue_variation=0.05, truth=truth)
        volumes = acquire_series(phantom, [ACQUIRED] * 60, snr=SNR, seed=1, disturbances=disturbances)
        worst = 0 if volumes.lost is None else volumes.lost[:, :, SLICE].max(axis=(0, 1)).argmax()
        images = [(getattr(phantom, label), colours) for label, _, colours in SHOWN]
        images.append((volumes.signals[..., worst], "gray"))
        for place, (values, colours) in zip(line, images, strict=True):
            shown = values[::-1, ::-1, SLICE].T
            # Vessels and fluid would leave no colours for the tissue.
            top = np.percentile(shown[phantom.mask[::-1, ::-1, SLICE].T & (shown > 0)], 96)
            place.imshow(shown, vmin=0, vmax=top, cmap=colours, interpolation="nearest")
            place.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, fontsize=7)
    for place, title in zip(lines[0], titles, strict=True):
        place.set_title(title, fontsize=9)
    canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    pixels.quantize(COLOURS).save(TARGET, optimize=True)
    print(TARGET)


if __name__ == "__main__":
    main()
