"""The third line: where D* can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sicnn_app.derivatives.facts import count_of
from sicnn_app.formats import listed
from sicnn_app.ivim.adequacy_inputs import DOUBTFUL, GOOD, POOR
from sicnn_app.ivim.checks import AT_BOUND, RELATIVE_BOUND
from sicnn_app.ivim.flags import BOUND_MARGIN, NEGLIGIBLE_F
from sicnn_app.ivim.parameters import BOUNDS
from sicnn_app.report.answers.between_runs import Difference
from sicnn_app.report.answers.inputs import LEAST_VOXELS, RunAnswers, Tissue
from sicnn_app.report.answers.wording import SHOWN_DIFFERENCES, capital, few, percent, relative


def trust_in_dstar(tissue: Tissue) -> tuple[str, str]:
    """Whether D* of a tissue can be believed, and why.

    Returns
    -------
    level : {'good', 'doubtful', 'poor'}
        Voxel by voxel; as a median over the tissue only; not at all.
    reason : str
    """
    low, high = BOUNDS["dstar"]
    margin = BOUND_MARGIN * (high - low)
    median = tissue.medians.get("dstar")
    if tissue.medians["f"] < NEGLIGIBLE_F or median is None:
        return POOR, f"F is below {percent(NEGLIGIBLE_F)}, too little blood to have a D*"
    if not low + margin < median < high - margin:
        end = high if median > low + margin else low
        return POOR, f"most voxels stopped at {1e3 * end:.0f}, the limit of the fit"
    if tissue.at_bound > AT_BOUND[0]:
        return POOR, f"{percent(tissue.at_bound)} of its voxels stopped at a limit of the fit"
    own, known = (found.get("dstar", 0.0) / median for found in (tissue.bounds, tissue.of_voxel))
    worst = max(own, known)
    if not worst:
        return DOUBTFUL, "the noise is not known"
    noise = f"one voxel is known to ± {relative(known or own)} of it"
    if own > max(known, RELATIVE_BOUND[0]) and known:
        noise += f", by its own signals alone to ± {relative(own)}"
    if known <= RELATIVE_BOUND[1] and own <= RELATIVE_BOUND[1 if not known else 0]:
        return GOOD, noise
    if (worst / RELATIVE_BOUND[1]) ** 2 <= tissue.measurements:
        return DOUBTFUL, noise
    return POOR, f"{noise}, too much for a median over {count_of(tissue.voxels, 'voxel')}"


def judge_dstar(runs: Sequence[RunAnswers], found: Sequence[Difference]) -> dict[str, tuple[str, str]]:
    """Level and reason of :func:`trust_in_dstar` by tissue, and by run where these differ.

    A tissue of which runs contradict each other is believed in none.
    """
    judged: dict[str, dict[str, tuple[str, str]]] = {}
    for run in runs:
        for tissue in run.tissues or tuple(filter(None, (run.whole,))):
            if tissue.voxels >= LEAST_VOXELS and "f" in tissue.medians:
                # Clusters of one run are not those of another.
                name = tissue.name if run.named or len(runs) == 1 else f"{tissue.name} of {run.title}"
                judged.setdefault(name, {})[run.title] = trust_in_dstar(tissue)
    apart = {difference.tissue for difference in found if difference.label == "dstar"}
    levels = {}
    for name, verdicts in judged.items():
        if name in apart:
            levels[name] = POOR, "the runs contradict each other"
        elif len({level for level, _ in verdicts.values()}) == 1:
            levels[name] = next(iter(verdicts.values()))
        else:
            levels |= {f"{name} in {title}": verdict for title, verdict in verdicts.items()}
    return levels


def dstar_sentences(levels: Mapping[str, tuple[str, str]]) -> list[str]:
    """Where D* can be believed, and where not, and why, from :func:`judge_dstar`."""
    if not levels:
        return ["It cannot be judged: there is no tissue to read."]
    heads = {
        GOOD: "believe it voxel by voxel in",
        DOUBTFUL: "believe its median, no single voxel, in",
        POOR: "do not believe it in",
    }
    parts, reasons = [], []
    for level, head in heads.items():
        names = [name for name, (found, _) in levels.items() if found == level]
        if names:
            everywhere = len(names) == len(levels) > 1
            parts.append(f"{head} {'any tissue' if everywhere else listed(few(names, SHOWN_DIFFERENCES))}")
            told = names[: SHOWN_DIFFERENCES if len(levels) <= SHOWN_DIFFERENCES + 2 else 2]
            reasons += [f"{name}: {levels[name][1]}" for name in told]
    return [f"{capital('; '.join(parts))}.", f"Why: {'; '.join(reasons)}."]
