"""The part of the report that shows what the corrections did to the images.

The images from before a correction are not written, so these pictures are drawn when a run is processed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sicnn_app.bids.geometry import placement
from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.facts import Facts, format_number
from sicnn_app.derivatives.names import step_picture_name
from sicnn_app.ivim.run import RunResult
from sicnn_app.report import figures
from sicnn_app.report.display import plan_display
from sicnn_app.report.mosaic import tiles_of_png
from sicnn_app.report.picture import Picture
from sicnn_app.steps import STEPS


def draw_steps(result: RunResult) -> dict[str, bytes]:
    """PNG of every correction of a run that changed anything, by its label."""
    if not result.before_after:
        return {}
    display = plan_display(result.averaged.mask, *placement(result.header))
    return {step.label: figures.step_picture(step, display) for step in result.before_after}


def step_pictures(run: RunDerivatives) -> list[Picture]:
    """The pictures that were drawn when the run was processed, with the numbers of its QC sidecar."""
    recorded = run.qc.get("StepPictures")
    entries = recorded if isinstance(recorded, list) else []
    numbers = {str(entry.get("Step")): entry for entry in entries if isinstance(entry, Mapping)}
    return [
        _picture(run, label, numbers.get(step.name, {}))
        for label, step in STEPS.items()
        if label in run.kept_pictures
    ]


def _picture(run: RunDerivatives, label: str, entry: Mapping[str, Any]) -> Picture:
    facts = Facts(entry)
    bvals, changes = facts.numbers("BValues"), facts.numbers("RootMeanSquareDifference")
    limit = facts.number("DifferenceRange")
    words = [STEPS[label].look_for]
    measured = ""
    if bvals and len(bvals) == len(changes):
        pairs = zip(bvals, changes, strict=True)
        measured = " and ".join(f"{format_number(change)} at b = {bval:g}" for bval, change in pairs)
        words.append(f"Root mean square of the difference inside the mask: {measured} (image units).")
    if limit is not None:
        words.append(f"Colour range ± {format_number(limit)} image units.")
    return Picture(
        file_name=step_picture_name(run.name, label),
        content=run.kept_pictures[label],
        title=STEPS[label].name,
        caption=" ".join(words),
        alt=f"A slice at two b-values before and after: {STEPS[label].name}, and the difference"
        f"{f', with root mean squares of {measured}, in image units' if measured else ''}.",
        flicker=tiles_of_png(run.kept_pictures[label]),
    )
