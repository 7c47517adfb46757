"""One run's derivatives -> all its pictures with titles, captions and texts for those who cannot see them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.facts import as_number, count_of, format_number
from sicnn_app.derivatives.names import picture_name
from sicnn_app.ivim.flags import NEGLIGIBLE_F
from sicnn_app.report import charts, figures
from sicnn_app.report.before_after import step_pictures
from sicnn_app.report.carpet import carpet_pictures, volume_pictures
from sicnn_app.report.clusters import TissueClusters, cluster_pictures, find_clusters
from sicnn_app.report.comparison import difference_pictures, scatter_pictures
from sicnn_app.report.decay import decay_chart, decay_of
from sicnn_app.report.display import Display, plan_display
from sicnn_app.report.picture import Picture, captioned_map, percent, volume_of
from sicnn_app.report.quantities import Quantity, shown_quantities
from sicnn_app.report.regions import region_pictures
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
    tissue: TissueClusters | None = None
    steps: Sequence[Picture] = ()
    maps: Sequence[Picture] = ()
    others: Sequence[Picture] = ()
    histograms: Sequence[Picture] = ()
    regions: Sequence[Picture] = ()
    clusters: Sequence[Picture] = ()
    spread: Sequence[Picture] = ()
    differences: Sequence[Picture] = ()
    scatters: Sequence[Picture] = ()
    motion: Sequence[Picture] = ()
    carpet: Sequence[Picture] = ()
    volumes: Sequence[Picture] = ()
    signals: Sequence[Picture] = ()
    flags: Sequence[Picture] = ()
    training: Sequence[Picture] = ()

    @property
    def drawn(self) -> list[Picture]:
        """All but those that cannot be made again: whoever processes the run writes them."""
        others = ("convention", "tissue", "steps", "carpet", "volumes")
        return [picture for name, shown in vars(self).items() if name not in others for picture in shown]


def draw_run(run: RunDerivatives) -> RunPictures:
    """Draw whatever the files of a run allow."""
    training, motion = list(_training(run)), list(_motion(run))
    if not run.has_voxels:
        return RunPictures(training=training, motion=motion)
    display = plan_display(run.mask, run.affine, run.zooms)
    tissue = find_clusters(run)
    shown = [quantity for quantity in shown_quantities(run.anatomy) if quantity.spec.label in run.maps]
    return RunPictures(
        convention=display.convention,
        maps=[_map(run, display, quantity) for quantity in shown if quantity.spec.of_tissue],
        others=[
            _mask(run, display),
            *(_map(run, display, quantity) for quantity in shown if not quantity.spec.of_tissue),
        ],
        histograms=[_histogram(run, quantity) for quantity in shown if quantity.spec.of_tissue],
        regions=region_pictures(run),
        tissue=tissue,
        clusters=[] if tissue is None else cluster_pictures(run, tissue, display),
        spread=spread_pictures(run, display),
        differences=difference_pictures(run, display),
        scatters=scatter_pictures(run),
        steps=step_pictures(run),
        motion=motion,
        carpet=carpet_pictures(run),
        volumes=volume_pictures(run),
        signals=list(_signals(run, display)),
        flags=[] if run.flags is None else [_flags(run, display)],
        training=training,
    )


def _map(run: RunDerivatives, display: Display, quantity: Quantity) -> Picture:
    label = quantity.spec.label
    coloured = run.meaningful(label)
    remark = f"Without colour where F is below {100 * NEGLIGIBLE_F:g} %: no meaning there."
    return captioned_map(
        run,
        display,
        quantity,
        run.maps[label],
        volume_of(run, coloured),
        desc=f"{label}map",
        numbers=f": {_median_words(run.inside(label)[coloured], quantity)}",
        remark="" if coloured.all() else remark,
        spread=run.spread.get(label),
    )


def _histogram(run: RunDerivatives, quantity: Quantity) -> Picture:
    selected = run.meaningful(quantity.spec.label)
    values = run.inside(quantity.spec.label)[selected]
    symbol, where = quantity.spec.symbol, "the mask"
    if quantity.spec.needs_perfusion:
        where = f"voxels with F of at least {100 * NEGLIGIBLE_F:g} %"
    return Picture(
        file_name=picture_name(run.name, f"{quantity.spec.label}histogram", "svg"),
        content=charts.histogram_chart(values, run.flagged[selected], quantity),
        title=f"Distribution of {symbol}",
        caption=f"Over {where}; values beyond the ends are counted in the first or last bar.",
        alt=f"Histogram of {symbol} over {where}, {_median_words(values, quantity)}.",
    )


def _median_words(values: np.ndarray, quantity: Quantity) -> str:
    if values.size == 0:
        return "no voxels"
    low, median, high = map(format_number, np.percentile(values, (25, 50, 75)) * quantity.factor)
    return f"median {median}, quartiles {low} and {high}, in {quantity.unit}"


def _mask(run: RunDerivatives, display: Display) -> Picture:
    voxels = count_of(int(run.mask.sum()), "voxel")
    return Picture(
        file_name=picture_name(run.name, "maskoutline", "png"),
        content=figures.mask_picture(run, display),
        title="Mask" if run.mask_label is None else f"{run.mask_label.capitalize()} mask",
        caption=f"Its outline over the image at the lowest b-value; {voxels} inside.",
        alt=f"Image at the lowest b-value with the outline of the mask around {voxels}.",
    )


def _signals(run: RunDerivatives, display: Display) -> Iterator[Picture]:
    measured = run.measured
    if measured is None:
        return
    bvals = ", ".join(f"{b:g}" for b in measured.bvals)
    yield Picture(
        file_name=picture_name(run.name, "bvalues", "png"),
        content=figures.bvalue_picture(measured, display),
        title=f"Slice {measured.slice_index + 1} by b-value",
        caption="Mean of the volumes of each b-value (s/mm²), each with a grey scale of its own.",
        alt=f"One slice at the b-values {bvals} s/mm².",
    )
    decay = decay_of(run, np.ones(measured.in_mask.shape[1], dtype=bool), conventional=False)
    if decay is None:
        return
    yield Picture(
        file_name=picture_name(run.name, "decay", "svg"),
        content=decay_chart(decay),
        title="Signal decay",
        caption="Signal relative to S0 of each voxel: points are the median over the mask with the "
        f"quartiles, of {measured.words}; the line is the median of what the maps predict.",
        alt="Measured signal over the b-value, with the signal predicted by the maps.",
    )


def _motion(run: RunDerivatives) -> Iterator[Picture]:
    for column, label, title, desc in _MOTION:
        names = ("volume", *(f"{column}_{axis}" for axis in "xyz"))
        rows = [[as_number(row.get(name)) for name in names] for row in run.motion]
        rows = [row for row in rows if None not in row]
        if not rows:
            continue
        volumes, *values = np.array(rows, dtype=float).T
        largest = format_number(np.abs(values).max())
        yield Picture(
            file_name=picture_name(run.name, desc, "svg"),
            content=charts.motion_chart(volumes, np.array(values), label),
            title=f"{title} of the volumes",
            caption="What was corrected, along the scanner's axes; zero for volumes left in place.",
            alt=f"{title} of {count_of(len(rows), 'volume')}; the largest is {largest}, {label}.",
        )


def _flags(run: RunDerivatives, display: Display) -> Picture:
    share = percent(float(run.flagged.mean()))
    return Picture(
        file_name=picture_name(run.name, "ivimflags", "png"),
        content=figures.flag_picture(run, display),
        title="Flags",
        caption=f"{share} of the voxels are flagged; the colours are those of the table.",
        alt=f"Flagged voxels in colour over the image at the lowest b-value; {share} are flagged.",
    )


def _training(run: RunDerivatives) -> Iterator[Picture]:
    if losses := _losses(run):
        several = len({row[0] for row in losses}) > 1
        rewritten = "Dotted lines: the training signals were rewritten, so the loss may step there."
        yield Picture(
            file_name=picture_name(run.name, "loss", "svg"),
            content=charts.loss_chart(losses, _epochs(run)),
            title="Training loss",
            caption=rewritten if several else "Per epoch.",
            alt=f"Training loss from {format_number(losses[0][2])} to {format_number(losses[-1][2])}.",
        )
    for column, factor, label, title, desc in _PER_ITERATION:
        pairs = [
            (index if (number := as_number(row.get("data_iteration"))) is None else number, value * factor)
            for index, row in enumerate(run.history)
            if (value := as_number(row.get(column))) is not None
        ]
        if len(pairs) < 2:
            continue
        iterations, values = np.array(pairs).T
        yield Picture(
            file_name=picture_name(run.name, desc, "svg"),
            content=charts.iteration_chart(iterations, values, label),
            title=title,
            caption="Per data iteration.",
            alt=f"{title}, {label}, from {format_number(values[0])} to {format_number(values[-1])}.",
        )


def _losses(run: RunDerivatives) -> list[tuple[float, float, float]]:
    """The training curve as (data iteration, epoch, loss); rows that are not three numbers are left out."""
    rows = run.training.get("TrainingLoss") or []
    numbers = [tuple(map(as_number, row)) for row in rows if isinstance(row, list) and len(row) == 3]
    return [row for row in numbers if None not in row]


def _epochs(run: RunDerivatives) -> dict[int, int]:
    """Epochs of every data iteration that the history counts."""
    pairs = [(as_number(row.get("data_iteration")), as_number(row.get("epochs"))) for row in run.history]
    return {int(iteration): int(epochs) for iteration, epochs in pairs if None not in (iteration, epochs)}
