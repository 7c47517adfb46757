"""The second line: which tissue holds most blood, and what is none."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sicnn_app.formats import listed
from sicnn_app.ivim.adequacy_inputs import VERDICTS
from sicnn_app.ivim.flags import NEGLIGIBLE_F
from sicnn_app.ivim.map_spec import BY_1000
from sicnn_app.ivim.parameters import SPECS, TISSUE_LABELS
from sicnn_app.report.answers.inputs import FLUID_D, NOTABLE_SHARE, VESSEL_F, RunAnswers, Tissue, numbers
from sicnn_app.report.answers.wording import SHOWN_TISSUES, capital, few, percent, two_digits


def perfusion_sentences(runs: Sequence[RunAnswers]) -> list[str]:
    """Which tissue holds most blood, with its numbers, in the run that is trusted most."""
    run = best_run(runs)
    read = [tissue for tissue in run.tissues if not tissue.unread]
    read.sort(key=lambda tissue: (bool(likeness(tissue, run.anatomy)), -tissue.medians["f"]))
    where = "" if len(runs) == 1 else f" in {run.title}"
    sentences: list[str] = []
    unnamed: list[str] = []
    if not run.named:
        unnamed.append(
            "No segmentation was given, so organs have no names here: clusters, numbered as in the section "
            "Tissue clusters, are voxels that look alike, not anatomy."
            if run.tissues
            else "No segmentation was given, so organs have no names here; the numbers are of the whole mask."
        )
        read = read or [tissue for tissue in (run.whole,) if tissue and not tissue.unread]
    if not read:
        sentences.append(f"No tissue can be read{where}.")
    elif max(tissue.medians["f"] for tissue in read) < NEGLIGIBLE_F:
        sentences.append(f"No perfusion can be told{where}: F is below 2 % everywhere.")
    else:
        sentences += _ranking(run, read, where)
    return [*sentences, *unnamed, *_unread(runs), *_not_tissue(run, where)]


def _ranking(run: RunAnswers, read: list[Tissue], where: str) -> list[str]:
    shown = read[:SHOWN_TISSUES]
    words = [f"{tissue.name} {numbers(tissue)}{likeness(tissue, run.anatomy)}" for tissue in shown]
    first = shown[0]
    if len(shown) == 1:
        head = f"There is one tissue to read, {first.name}"
    elif _apart(first, shown[1]):
        head = f"{capital(first.name)} holds most blood"
    else:
        head = f"{capital(first.name)} and {shown[1].name} hold most blood, and are not told apart by F"
    if first.cluster:
        meaning = "± is the standard deviation of one voxel"
    else:
        errors = [
            f"{SPECS[label].symbol} to ± {two_digits(error * SPECS[label].factor)}"
            for label in TISSUE_LABELS
            if (error := first.error(label))
        ]
        surer = f"; the median of {first.name} is surer: {', '.join(errors)}" if errors else ""
        meaning = f"± is the standard deviation over the voxels{surer}"
    listing = "; ".join(words)
    return [
        f"{head}.",
        f"{capital(where.strip())}: {listing}." if where else f"{capital(listing)}.",
        f"{meaning}. D and D* are in {BY_1000}.",
    ]


def _unread(runs: Sequence[RunAnswers]) -> list[str]:
    """Regions of which nothing is said, with the reason."""
    reasons: dict[str, list[str]] = {}
    for name in dict.fromkeys(tissue.name for run in runs if run.named for tissue in run.tissues):
        found = {run.title: t.unread for run in runs for t in run.tissues if t.name == name and t.unread}
        if not found:
            continue
        same = len(set(found.values())) == 1 and len(found) == len(runs)
        words = [why if same else f"{why} in {title}" for title, why in found.items()]
        reasons.setdefault(", ".join(few(list(dict.fromkeys(words)))), []).append(name)
    if not reasons:
        return []
    words = [f"{listed(few(names))} ({reason})" for reason, names in reasons.items()]
    return [f"Not to be read: {'; '.join(few(words))}."]


def _not_tissue(run: RunAnswers, where: str) -> list[str]:
    """Warnings of fluid and vessels, which look like perfusion."""
    sentences = []
    if run.fluid >= NOTABLE_SHARE:
        fluid = "CSF" if run.anatomy == "brain" else "bile, urine, cysts"
        sentences.append(
            f"{percent(run.fluid)} of the voxels{where} have a D above 2.5 × {BY_1000}, as fluid has "
            f"({fluid}): their F is no perfusion of tissue."
        )
    if run.vessels >= NOTABLE_SHARE:
        limit = VESSEL_F.get(run.anatomy or "body", VESSEL_F["body"])
        sentences.append(
            f"{percent(run.vessels)} have an F above {percent(limit)} with D* at its upper limit: large "
            "vessels or pulsation, not perfusion of tissue."
        )
    return sentences


def likeness(tissue: Tissue, anatomy: str | None) -> str:
    """What a tissue may rather be, in brackets, where its numbers are not those of tissue.

    Examples
    --------
    >>> likeness(Tissue("cluster 1", 50, {"f": 0.3, "d": 0.003}), "brain")
    ' (a D as CSF)'
    """
    f, d = tissue.medians["f"], tissue.medians["d"]
    if d >= FLUID_D:
        return f" (a D as {'CSF' if anatomy == 'brain' else 'fluid'})"
    if f >= VESSEL_F.get(anatomy or "body", VESSEL_F["body"]) * (1.0 if tissue.cluster else 1.25):
        return " (more blood than tissue holds: vessels, motion or noise)"
    return " (hardly perfused)" if f < NEGLIGIBLE_F else ""


def best_run(runs: Sequence[RunAnswers]) -> RunAnswers:
    """The run with regions, the best verdict and fewest flags; the first of those that are alike."""
    return min(
        runs,
        key=lambda run: (
            not run.named,
            VERDICTS.index(run.verdict) if run.verdict in VERDICTS else len(VERDICTS),
            1.0 if run.whole is None else round(run.whole.flagged, 1),
        ),
    )


def _apart(a: Tissue, b: Tissue) -> bool:
    """True when two values of F of one run differ by more than chance allows (95 %)."""
    return abs(a.medians["f"] - b.medians["f"]) > 1.96 * math.hypot(a.error("f"), b.error("f"))
