"""The page of the documentation: what is shown, what came out, the pictures and the tables."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

INTRODUCTION = """\
# The supplement's figures and tables on our phantom

Figures and tables of the SI-CNN supplement, computed anew with this app. Theirs and ours differ in the
phantom, the b-values, the definition of SNR and the network, none of which the supplement gives: absolute
values are a guide to magnitude, ratios and trends are the evidence. Ours is the abdomen of
`sicnn-simulate` with 12 b-values of 0 to 600 s/mm², one volume each and Rician noise; SNR is the mean true
S0 over the body, divided by the standard deviation of one noise channel. Phantoms, noise and trainings
have seeds that no default was chosen on. F is a fraction, D and D* are in mm²/s; errors of D are taken
outside of vessels, errors of D* where the true F is above 0.02. Signals are relative to the voxel's noisy
signal at b = 0, as the training sees them. Settings are the app's defaults where nothing else is said.

Sentences under "What came out" are written by the program from the numbers, not by hand."""

EPOCHS = """\
An epoch here is another one than theirs: on this phantom it is {count}, as every slice is a single tile."""

WIDTH = 108
"""Letters per line."""

HEADINGS = {
    "figure-1": "Figure 1: Noise and Recon Error over epochs",
    "figure-2": "Figure 2: Noise and Recon Error by Fitting Error",
    "figure-3": "Figure 3: errors over data iterations",
    "figure-4": "Figure 4: training and validation loss",
    "figure-5": "Figure 5: methods over SNR",
    "figure-6": "Figure 6: maps",
    "table-lambda": "Time and accuracy over lambda",
    "table-thresholds": "Thresholds",
    "table-batch": "Batch size",
    "table-limit": "Limit of data iterations",
    "table-snr": "Accuracy over SNR",
    "table-true": 'The "true experiment"',
}

TEXTS = {
    "figure-1": """\
Mean Noise |n - s| and mean Recon Error |p - s| of all signals while the plain network (method `cnn`) is
trained, at epoch 1, at epoch 10 and every 20 epochs from there. {epochs} The noisy signals do not change,
so mean Noise is a level line.""",
    "figure-2": """\
The signals of the same networks, grouped by their Fitting Error |p - n|, at the supplement's epochs and at
the converged one: where SI-CNN would rewrite for the first time. {epochs} Intervals are closed on the left
and open on the right; signals beyond the last one and groups of fewer than 30 signals are left out.
[Differences in signal quality](signal-quality.md) derives what to expect.""",
    "figure-3": """\
Errors of the maps and of the training signals T after every data iteration, with `--lambda 0`, so that it
goes on where the default stops (dotted). T of data iteration 0 are the noisy signals.""",
    "figure-4": """\
Loss per epoch of the plain network and of SI-CNN with its default stop. The validation loss is that of the
averaged weights against the noisy signals of held-out patches, about a fifth of the voxels: the network
sees them, but is never trained on them, and they are never rewritten. The training loss is against the
training signals, so SI-CNN's drops where these are rewritten, and from there its two curves are not of one
quantity. Epochs that fewer than half of the seeds reached are not shown.""",
    "figure-5": """\
Errors of least squares (`lsq`), of the plain network with as many epochs as SI-CNN took (`cnn`), of
iterative optimisation alone (`di-cnn`) and of SI-CNN (`si-cnn`).""",
    "figure-6": """\
One slice of one phantom; colour ranges are fixed per row. D* has no meaning where F is near 0.""",
    "table-lambda": """\
lambda is the relative change of the training signals below which the data iterations stop. `default`: the
app's defaults with so many data iterations allowed that lambda decides. `supplement`: all settings of
`--preset supplement` but lambda, with its limit of 200. Minutes are processor time on one core; the logged
ones are theirs, of two trainings, on a machine that is not named.""",
    "table-thresholds": """\
Absolute thresholds of fitting error and neighbour distance, all else at the app's defaults; the first row
of every SNR has the app's default pair. The logs say "around,fitting_max influence heavy", and of the true
experiment at SNR 33 that a fitting threshold of 0.03 with a neighbour threshold of 0.02 was better.""",
    "table-batch": """\
Tiles per optimiser step, on a phantom of as many slices (one tile each) as the largest batch holds.
Convergence is judged over optimiser steps, so larger batches see more tiles in all. The logs name batches
of 5, 25, 40 and 60 without results side by side.""",
    "table-limit": """\
The most data iterations, with `--lambda 0`, so that only the limit stops them; 0 is the first training
alone. The logs name limits of 80 and 200 without results side by side.""",
    "table-snr": """\
SI-CNN with the default rewriting and with the one behind the logged numbers, as `--preset
supplement-table` has it: absolute thresholds, the root mean square over b as distance, neighbours of equal
weight. Everything else is at the app's defaults, the learning rate too.""",
    "table-true": """\
Maps estimated from a measured abdomen (three subjects, one slice each) are taken as the truth; signals are
made from them at the phantom's b-values, noise is added, and all methods estimate the maps anew. No such
truth is neutral: maps by least squares hold noise as texture, which a method that looks at neighbours must
miss, and maps by SI-CNN are as smooth as SI-CNN makes them. Both are shown; spreads are over the subjects.
Errors of D leave out voxels with a true F above 0.9. Of each SNR the last logged result is given.""",
}


@dataclass(frozen=True)
class Section:
    """Results of one item: sentences, table with the file of its rows per seed or picture, origin."""

    item: str
    verdicts: Sequence[str]
    origin: str
    table: str | None = None
    rows: Path | None = None
    picture: Path | None = None


def page(sections: Sequence[Section], steps_per_epoch: int, place: Path) -> str:
    """Markdown of the whole page.

    Parameters
    ----------
    sections : sequence of Section
    steps_per_epoch : int
        Optimiser steps of the plain network on the phantom.
    place : Path
        File that the page will be; other files are linked relative to its folder.
    """
    count = f"{steps_per_epoch} optimiser step{'' if steps_per_epoch == 1 else 's'}"
    epochs = EPOCHS.format(count=count)
    parts = [INTRODUCTION]
    for section in sections:
        text = TEXTS[section.item].format(epochs=epochs)
        wrapped = textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)
        parts += [f"## {HEADINGS[section.item]}", wrapped]
        if section.verdicts:
            parts.append("What came out:\n\n" + "\n".join(f"- {line}" for line in section.verdicts))
        if section.picture is not None:
            parts.append(f"![{HEADINGS[section.item]}]({_link(section.picture, place)})")
        if section.table is not None:
            parts.append(section.table)
        seeds = "" if section.rows is None else f"[Every seed]({_link(section.rows, place)}). "
        parts.append(f"{seeds}{section.origin}")
    return "\n\n".join(parts) + "\n"


def _link(path: Path, place: Path) -> str:
    return Path(os.path.relpath(path, place.parent)).as_posix()
