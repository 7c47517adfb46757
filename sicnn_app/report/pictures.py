"""One run's derivatives -> all its pictures with titles, captions and texts for those who cannot see them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.facts import as_number, count_of, format_number, in_words
from sicnn_app.derivatives.names import picture_name
from sicnn_app.ivim.flags import FLAGS, NEGLIGIBLE_F
from sicnn_app.report import charts, figures
from sicnn_app.report.before_after import step_pictures
from sicnn_app.report.cluster_numbers import TissueClusters, find_clusters
from sicnn_app.report.clusters import cluster_pictures
from sicnn_app.report.comparison import difference_pictures, scatter_pictures
from sicnn_app.report.decay import decay_chart, decay_of
from sicnn_app.report.display import Display, plan_display
from sicnn_app.report.picture import Picture, baseline_of, percent, range_words, volume_of
from sicnn_app.report.quantities import Quantity, shown_quantities
from sicnn_app.report.spread import spread_pictures

_PER_ITERATION = (
    ("training_signal_change", 1.0, "relative change", "Change of the training signals", "signalchange"),
    ("replaced_fraction", 100.0, "replaced (%)", "Replaced training signals", "replaced"),
)
_MOTION = (
    ("trans", "translation (mm)", "Translation", "motiontranslation"),
    ("rot", "rotation (degrees)", "Rotation", "motionrotation"),
)


@dataclass(frozen=True)
class RunPictures:
    """Pictures of one run by section, how slices are turned, and what the clusters are."""

    convention: str = ""
    maps: list[Picture] = field(default_factory=list)
    histograms: list[Picture] = field(default_factory=list)
    tissue: TissueClusters | None = None
    clusters: list[Picture] = field(default_factory=list)
    spread: list[Picture] = field(default_factory=list)
    differences: list[Picture] = field(default_factory=list)
    scatters: list[Picture] = field(default_factory=list)
    steps: list[Picture] = field(default_factory=list)
    motion: list[Picture] = field(default_factory=list)
    signals: list[Picture] = field(default_factory=list)
    flags: list[Picture] = field(default_factory=list)
    training: list[Picture] = field(default_factory=list)

    @property
    def all(self) -> list[Picture]:
        """Every picture in the order of the page."""
        return [
            *self.maps,
            *self.histograms,
            *self.clusters,
            *self.spread,
            *self.differences,
            *self.scatters,
            *self.steps,
            *self.motion,
            *self.signals,
            *self.flags,
            *self.training,
        ]


def draw_run(run: RunDerivatives) -> RunPictures:
    """Draw whatever the files of a run allow."""
    training, motion = _training(run), _motion(run)
    if not run.has_voxels:
        return RunPictures(training=training, motion=motion)
    display = plan_display(run.mask, run.affine, run.zooms)
    tissue = find_clusters(run)
    shown = [quantity for quantity in shown_quantities(run.anatomy) if quantity.spec.label in run.maps]
    return RunPictures(
        convention=display.convention,
        maps=[_mask(run, display), *(_map(run, display, quantity) for quantity in shown)],
        histograms=[_histogram(run, quantity) for quantity in shown if quantity.spec.of_tissue],
        tissue=tissue,
        clusters=[] if tissue is None else cluster_pictures(run, tissue, display),
        spread=spread_pictures(run, display),
        differences=difference_pictures(run, display),
        scatters=scatter_pictures(run),
        steps=step_pictures(run),
        motion=motion,
        signals=_signals(run, display),
        flags=[] if run.flags is None else [_flags(run, display)],
        training=training,
    )


def _map(run: RunDerivatives, display: Display, quantity: Quantity) -> Picture:
    label = quantity.spec.label
    coloured = run.meaningful(label)
    inside = run.inside(label)[coloured]
    low, high = quantity.limits(inside)
    caption = [f"Colour range {in_words(low)} to {quantity.with_unit(high)}, {range_words(run, quantity)}."]
    if outside := quantity.share_outside(inside):
        caption.append(f"{percent(100.0 * outside)} of the voxels lie outside it.")
    if not coloured.all():
        caption.append(f"Without colour where F is below {100 * NEGLIGIBLE_F:g} %: no meaning there.")
    return Picture(
        file_name=picture_name(run.name, f"{label}map", "png"),
        content=figures.map_picture(
            run.maps[label], run.mask, baseline_of(run), display, quantity, shown=volume_of(run, coloured)
        ),
        title=f"{quantity.spec.symbol}, {quantity.title}",
        caption=" ".join(caption),
        alt=(
            f"Map of {quantity.spec.symbol}, {quantity.title}, on {count_of(len(display.slices), 'slice')}: "
            f"{_median_words(inside, quantity)}."
        ),
    )


def _histogram(run: RunDerivatives, quantity: Quantity) -> Picture:
    selected = run.meaningful(quantity.spec.label)
    values = run.inside(quantity.spec.label)[selected]
    symbol = quantity.spec.symbol
    return Picture(
        file_name=picture_name(run.name, f"{quantity.spec.label}histogram", "svg"),
        content=charts.histogram_chart(values, run.flagged[selected], quantity),
        title=f"Distribution of {symbol}",
        caption=f"Over {_where(quantity)}; values beyond the ends are counted in the first or last bar.",
        alt=f"Histogram of {symbol} over {_where(quantity)}, {_median_words(values, quantity)}.",
    )


def _where(quantity: Quantity) -> str:
    return (
        "the mask"
        if not quantity.spec.needs_perfusion
        else f"voxels with F of at least {100 * NEGLIGIBLE_F:g} %"
    )


def _median_words(values: np.ndarray, quantity: Quantity) -> str:
    if values.size == 0:
        return "no voxels"
    low, median, high = np.percentile(values, (25, 50, 75)) * quantity.factor
    ends = f"{format_number(low)} and {format_number(high)}"
    return f"median {format_number(median)}, quartiles {ends}, in {quantity.unit}"


def _mask(run: RunDerivatives, display: Display) -> Picture:
    voxels = count_of(int(run.mask.sum()), "voxel")
    return Picture(
        file_name=picture_name(run.name, "maskoutline", "png"),
        content=figures.mask_picture(run.mask, baseline_of(run), display),
        title="Mask" if run.mask_label is None else f"{run.mask_label.capitalize()} mask",
        caption=f"Its outline over the image at the lowest b-value; {voxels} inside.",
        alt=f"Image at the lowest b-value with the outline of the mask around {voxels}.",
    )


def _signals(run: RunDerivatives, display: Display) -> list[Picture]:
    pictures: list[Picture] = []
    measured = run.measured
    if measured is None:
        return pictures
    bvals = ", ".join(f"{b:g}" for b in measured.bvals)
    pictures.append(
        Picture(
            file_name=picture_name(run.name, "bvalues", "png"),
            content=figures.bvalue_picture(measured.slices, measured.bvals, display),
            title=f"Slice {measured.slice_index + 1} by b-value",
            caption="Mean of the volumes of each b-value (s/mm²), each with a grey scale of its own.",
            alt=f"One slice at the b-values {bvals} s/mm².",
        )
    )
    decay = decay_of(run, np.ones(measured.in_mask.shape[1], dtype=bool), conventional=False)
    if decay is not None:
        pictures.append(
            Picture(
                file_name=picture_name(run.name, "decay", "svg"),
                content=decay_chart(decay),
                title="Signal decay",
                caption=(
                    "Signal relative to S0 of each voxel: points are the median over the mask with the "
                    "quartiles, from the arithmetic mean of the volumes; the line is the median of what "
                    "the maps predict."
                ),
                alt="Measured signal over the b-value, with the signal predicted by the maps.",
            )
        )
    return pictures


def _motion(run: RunDerivatives) -> list[Picture]:
    pictures = []
    for column, label, title, desc in _MOTION:
        names = ("volume", *(f"{column}_{axis}" for axis in "xyz"))
        rows = [[as_number(row.get(name)) for name in names] for row in run.motion]
        rows = [row for row in rows if None not in row]
        if not rows:
            continue
        volumes, *values = np.array(rows, dtype=float).T
        largest = format_number(np.abs(values).max())
        pictures.append(
            Picture(
                file_name=picture_name(run.name, desc, "svg"),
                content=charts.motion_chart(volumes, np.array(values), label),
                title=f"{title} of the volumes",
                caption="What was corrected, along the scanner's axes; zero for volumes left in place.",
                alt=f"{title} of {count_of(len(rows), 'volume')}; the largest is {largest}, {label}.",
            )
        )
    return pictures


def _flags(run: RunDerivatives, display: Display) -> Picture:
    share = 100.0 * float(run.flagged.mean())
    return Picture(
        file_name=picture_name(run.name, "ivimflags", "png"),
        content=figures.flag_picture(
            run.flags, {spec.code: spec.color for spec in FLAGS}, run.mask, baseline_of(run), display
        ),
        title="Flags",
        caption=f"{percent(share)} of the voxels are flagged; the colours are those of the table.",
        alt=f"Flagged voxels in colour over the image at the lowest b-value; {percent(share)} are flagged.",
    )


def _training(run: RunDerivatives) -> list[Picture]:
    pictures = []
    losses = loss_rows(run)
    if losses:
        pictures.append(
            Picture(
                file_name=picture_name(run.name, "loss", "svg"),
                content=charts.loss_chart(losses, _epochs(run)),
                title="Training loss",
                caption=(
                    "Dotted lines: the training signals were rewritten, so the loss may step there."
                    if len({row[0] for row in losses}) > 1
                    else "Per epoch."
                ),
                alt=f"Training loss from {format_number(losses[0][2])} to {format_number(losses[-1][2])}.",
            )
        )
    for column, factor, label, title, desc in _PER_ITERATION:
        pairs = [
            (index if number is None else number, value * factor)
            for index, row in enumerate(run.history)
            if (value := as_number(row.get(column))) is not None
            for number in (as_number(row.get("data_iteration")),)
        ]
        if len(pairs) < 2:
            continue
        iterations, values = np.array(pairs).T
        pictures.append(
            Picture(
                file_name=picture_name(run.name, desc, "svg"),
                content=charts.iteration_chart(iterations, values, label),
                title=title,
                caption="Per data iteration.",
                alt=f"{title}, {label}, from {format_number(values[0])} to {format_number(values[-1])}.",
            )
        )
    return pictures


def loss_rows(run: RunDerivatives) -> list[tuple[float, float, float]]:
    """The training curve as (data iteration, epoch, loss); rows that are not three numbers are left out."""
    rows = run.training.get("TrainingLoss")
    numbers = [
        [as_number(value) for value in row] for row in rows or [] if isinstance(row, list) and len(row) == 3
    ]
    return [tuple(row) for row in numbers if None not in row]


def _epochs(run: RunDerivatives) -> dict[int, int]:
    """Epochs of every data iteration that the history counts."""
    pairs = [(as_number(row.get("data_iteration")), as_number(row.get("epochs"))) for row in run.history]
    return {int(iteration): int(epochs) for iteration, epochs in pairs if None not in (iteration, epochs)}
