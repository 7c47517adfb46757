"""Numbers of the runs of a subject -> the plain lines at the top of its report: tables in, sentences out.

The lines answer what a reader asks first: the verdict, which tissue is perfused, where D* can be believed,
what disagrees between the runs, and what to do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from sicnn_app.derivatives.facts import count_of, format_number
from sicnn_app.formats import listed
from sicnn_app.ivim.adequacy_inputs import DOUBTFUL, GOOD, POOR, UNKNOWN, VERDICTS
from sicnn_app.ivim.checks import AT_BOUND, RELATIVE_BOUND
from sicnn_app.ivim.flags import BOUND_MARGIN, NEGLIGIBLE_F
from sicnn_app.ivim.map_spec import BY_1000
from sicnn_app.ivim.parameters import BOUNDS, SPECS, TISSUE_LABELS

REPEATABILITY = {"f": 0.15, "d": 0.11, "dstar": 0.40}
"""Within-subject coefficients of variation of medians over a region that are usual. Liver: 12 % of F and
11 % of D with the best of several sequences on one scanner ("Reproducibility and repeatability of intervoxel
incoherent motion MRI acquisition methods in liver", https://scholarworks.utrgv.edu/som_pub/1378), 23, 11 and
47 % of F, D and D* between scanners (Cui et al., Eur J Radiol Open 2015;2:123-128)."""

SMALLEST = {"f": 0.05, "d": 0.5e-3, "dstar": 0.0}
"""Values below count as these where a share of them is asked for: near 0 repeats differ by an amount."""

VOXELS_ALIKE = 4
"""Voxels that count as one measurement: denoising and reconstruction make the noise of neighbours alike."""

LEAST_VOXELS = 10
"""Below it a region has no median worth a sentence."""

MOSTLY_FLAGGED = 0.5
"""Share of flagged voxels from which on the median of a region is not read."""

MOSTLY_INSIDE = 0.5
"""Share of a region below which its numbers are those of a part only."""

MOST_CHECKS = 2
"""Whose advice is repeated; the table of checks has all."""

FLUID_D = 2.5e-3
"""mm^2/s. Free water at body temperature has 3.0e-3, kidney, the highest tissue, about 2.0e-3."""

VESSEL_F = {"brain": 0.1, "body": 0.4}
"""More blood than tissue holds (liver about 0.3, grey matter up to 0.08); of a region a quarter more, because
organs differ and its name tells what it is."""

NOTABLE_SHARE = 0.02
"""Of the voxels, from which on fluid or vessels are named."""

SHOWN_TISSUES, SHOWN_DIFFERENCES, SHOWN_RUNS = 3, 4, 3
"""At most so many are named in a sentence; the sections of the runs have all."""

_TO_STANDARD_DEVIATION = 1.349
"""Interquartile range over standard deviation of a normal distribution."""

_OF_MEDIAN = math.sqrt(math.pi / 2)
"""Standard deviation of a median over that of a mean, for normal values."""


@dataclass(frozen=True)
class Tissue:
    """A region of a segmentation, a cluster of similar voxels, or all of the mask, in one run.

    Numbers are in the units of the maps and by label of the map; what is not known is not there.

    Attributes
    ----------
    medians, iqr, deviations : mapping of str to float
        Over its voxels: median, interquartile range and standard deviation; of a cluster the last is that of
        one voxel, because its voxels were chosen to be alike.
    of_voxel, bounds : mapping of str to float
        Standard deviation of one voxel: that of the method, and the smallest that its own signals can give.
    at_bound, flagged : float
        Shares of its voxels.
    inside : float
        Share of the whole region that lies inside the mask.
    cluster : bool
        Similar voxels, not a region.
    """

    name: str
    voxels: int
    medians: Mapping[str, float] = field(default_factory=dict)
    iqr: Mapping[str, float] = field(default_factory=dict)
    deviations: Mapping[str, float] = field(default_factory=dict)
    of_voxel: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, float] = field(default_factory=dict)
    at_bound: float = 0.0
    flagged: float = 0.0
    inside: float = 1.0
    cluster: bool = False

    @property
    def measurements(self) -> float:
        """Independent ones among its voxels, at least one."""
        return max(1.0, self.voxels / VOXELS_ALIKE)

    def error(self, label: str) -> float:
        """Standard deviation of the median, of a cluster that of one voxel; 0 where it is not known."""
        if self.cluster:
            return self.deviations.get(label, 0.0)
        return _OF_MEDIAN * self.iqr.get(label, 0.0) / _TO_STANDARD_DEVIATION / math.sqrt(self.measurements)

    @property
    def unread(self) -> str:
        """Why its medians are not to be read; empty where they are."""
        if self.voxels == 0 or not set(TISSUE_LABELS[:2]) <= self.medians.keys():
            return "outside the mask"
        if self.voxels < LEAST_VOXELS:
            return f"only {count_of(self.voxels, 'voxel')}"
        return f"{_percent(self.flagged)} of its voxels flagged" if self.flagged >= MOSTLY_FLAGGED else ""


@dataclass(frozen=True)
class RunAnswers:
    """What the lines need of one run.

    Attributes
    ----------
    title : str
        How the report calls it.
    verdict, sentence : str
        On its data, as its quality sidecar has them.
    advice : mapping of str to str
        What to do about a check that is not good, by its name.
    tissues : tuple of Tissue
        Its regions, or clusters of similar voxels where there are none.
    named : bool
        They are regions.
    whole : Tissue or None
        All voxels of the mask.
    conditions : mapping of str to str
        What F, D and D* may depend on, by name: b-values, times, settings.
    lost : tuple of str
        Volumes that lost signal, each in words.
    anatomy : str or None
    fluid, vessels : float
        Shares of the voxels that look like fluid and like vessels, see :data:`FLUID_D`, :data:`VESSEL_F`.
    """

    title: str
    verdict: str = UNKNOWN
    sentence: str = ""
    advice: Mapping[str, str] = field(default_factory=dict)
    tissues: tuple[Tissue, ...] = ()
    named: bool = False
    whole: Tissue | None = None
    conditions: Mapping[str, str] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    anatomy: str | None = None
    fluid: float = 0.0
    vessels: float = 0.0


@dataclass(frozen=True)
class Line:
    """One of the lines: its head and its sentences, which may be steps to take."""

    head: str
    sentences: tuple[str, ...]
    steps: bool = False


@dataclass(frozen=True)
class Difference:
    """A median that differs between two runs by more than chance and usual repeatability allow.

    ``size`` is the difference over what they allow, above 1.
    """

    tissue: str
    label: str
    runs: tuple[str, str]
    values: tuple[Tissue, Tissue]
    size: float


def answer(runs: Sequence[RunAnswers]) -> list[Line]:
    """The five lines of a subject or session; none without runs."""
    if not runs:
        return []
    found = differences(runs)
    levels = judge_dstar(runs, found)
    return [
        Line("Verdict", tuple(verdict_sentences(runs))),
        Line("Perfusion", tuple(perfusion_sentences(runs))),
        Line("D*", tuple(dstar_sentences(levels))),
        Line("Between the runs", tuple(difference_sentences(runs, found))),
        Line("What to do", tuple(advice_sentences(runs, found, levels)), steps=True),
    ]


def verdict_sentences(runs: Sequence[RunAnswers]) -> list[str]:
    """The verdict on the data of every run; runs of which the same is said share a sentence."""
    said: dict[str, list[str]] = {}
    for run in runs:
        said.setdefault(run.sentence or "No verdict is recorded.", []).append(run.title)
    if len(said) == 1:
        both = "" if len(runs) == 1 else "Both runs: " if len(runs) == 2 else f"All {len(runs)} runs: "
        return [f"{both}{next(iter(said))}"]
    return _shown([f"{listed(titles)}: {sentence}" for sentence, titles in said.items()], SHOWN_RUNS, "run")


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
        head = f"{_capital(first.name)} holds most blood"
    else:
        head = f"{_capital(first.name)} and {shown[1].name} hold most blood, and are not told apart by F"
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
        f"{_capital(where.strip())}: {listing}." if where else f"{_capital(listing)}.",
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
        reasons.setdefault(", ".join(_few(list(dict.fromkeys(words)))), []).append(name)
    if not reasons:
        return []
    words = [f"{listed(_few(names))} ({reason})" for reason, names in reasons.items()]
    return [f"Not to be read: {'; '.join(_few(words))}."]


def _not_tissue(run: RunAnswers, where: str) -> list[str]:
    """Warnings of fluid and vessels, which look like perfusion."""
    sentences = []
    if run.fluid >= NOTABLE_SHARE:
        fluid = "CSF" if run.anatomy == "brain" else "bile, urine, cysts"
        sentences.append(
            f"{_percent(run.fluid)} of the voxels{where} have a D above 2.5 × {BY_1000}, as fluid has "
            f"({fluid}): their F is no perfusion of tissue."
        )
    if run.vessels >= NOTABLE_SHARE:
        limit = VESSEL_F.get(run.anatomy or "body", VESSEL_F["body"])
        sentences.append(
            f"{_percent(run.vessels)} have an F above {_percent(limit)} with D* at its upper limit: large "
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
        return POOR, f"F is below {_percent(NEGLIGIBLE_F)}, too little blood to have a D*"
    if not low + margin < median < high - margin:
        end = high if median > low + margin else low
        return POOR, f"most voxels stopped at {1e3 * end:.0f}, the limit of the fit"
    if tissue.at_bound > AT_BOUND[0]:
        return POOR, f"{_percent(tissue.at_bound)} of its voxels stopped at a limit of the fit"
    own, known = (found.get("dstar", 0.0) / median for found in (tissue.bounds, tissue.of_voxel))
    worst = max(own, known)
    if not worst:
        return DOUBTFUL, "the noise is not known"
    noise = f"one voxel is known to ± {_relative(known or own)} of it"
    if own > max(known, RELATIVE_BOUND[0]) and known:
        noise += f", by its own signals alone to ± {_relative(own)}"
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
            parts.append(f"{head} {'any tissue' if everywhere else listed(_few(names, SHOWN_DIFFERENCES))}")
            told = names[: SHOWN_DIFFERENCES if len(levels) <= SHOWN_DIFFERENCES + 2 else 2]
            reasons += [f"{name}: {levels[name][1]}" for name in told]
    return [f"{_capital('; '.join(parts))}.", f"Why: {'; '.join(reasons)}."]


def differences(runs: Sequence[RunAnswers]) -> list[Difference]:
    """Every difference between two runs in the same tissue that calls for an explanation, the largest first.

    A region without flags on most of its voxels is compared, or the whole mask where there are no regions.
    Of each tissue and parameter the two runs count that differ most.
    """
    largest: dict[tuple[str, str], Difference] = {}
    for first, second in combinations(runs, 2):
        for a, b in _shared(first, second):
            for label in TISSUE_LABELS:
                size = _difference(a, b, label)
                known = largest.get((a.name, label))
                if size > 1 and (known is None or size > known.size):
                    both = (first.title, second.title)
                    largest[a.name, label] = Difference(a.name, label, both, (a, b), size)
    return sorted(largest.values(), key=lambda difference: -difference.size)


def _shared(first: RunAnswers, second: RunAnswers) -> Iterable[tuple[Tissue, Tissue]]:
    if first.named and second.named:
        others = {tissue.name: tissue for tissue in second.tissues}
        pairs = [(tissue, others[tissue.name]) for tissue in first.tissues if tissue.name in others]
    else:
        pairs = [(first.whole, second.whole)] if first.whole and second.whole else []
    return [(a, b) for a, b in pairs if min(a.voxels, b.voxels) >= LEAST_VOXELS]


def _difference(a: Tissue, b: Tissue, label: str) -> float:
    """Difference of two medians over what chance and usual repeatability allow (95 %); 0 where not known."""
    if not {"f", label} <= a.medians.keys() & b.medians.keys():
        return 0.0
    if SPECS[label].needs_perfusion and min(a.medians["f"], b.medians["f"]) < NEGLIGIBLE_F:
        return 0.0
    first, second = a.medians[label], b.medians[label]
    usual = math.sqrt(2) * REPEATABILITY[label] * max((first + second) / 2, SMALLEST[label])
    allowed = 1.96 * math.hypot(usual, a.error(label), b.error(label))
    return abs(first - second) / allowed if allowed > 0 else 0.0


def difference_sentences(runs: Sequence[RunAnswers], found: Sequence[Difference]) -> list[str]:
    """What disagrees between the runs, and what was not the same when they were measured."""
    if len(runs) == 1:
        return ["There is one run: nothing tells how far its numbers repeat."]
    unlike = condition_sentences(runs)
    if not any(True for pair in combinations(runs, 2) for _ in _shared(*pair)):
        return ["They have no tissue in common that could be compared.", *unlike]
    if not found:
        return ["Their medians agree, as far as noise and usual repeatability allow.", *unlike]
    words = [
        f"{d.tissue} {SPECS[d.label].symbol} {_value(d.values[0], d.label)} in {d.runs[0]}, "
        f"{_value(d.values[1], d.label)} in {d.runs[1]}"
        for d in found
    ]
    more = len(words) - SHOWN_DIFFERENCES
    rest = f"; and {more} more" if more > 0 else ""
    head = "They contradict each other by more than noise and usual repeatability allow"
    return [f"{head}: {'; '.join(words[:SHOWN_DIFFERENCES])}{rest}.", *unlike]


def condition_sentences(runs: Sequence[RunAnswers]) -> list[str]:
    """What differs between the runs besides the tissue, and the volumes that lost signal."""
    names = dict.fromkeys(name for run in runs for name in run.conditions)
    unlike = []
    for name in names:
        values = {run.title: run.conditions.get(name, "not stated") for run in runs}
        if len(set(values.values())) > 1:
            shown = [f"{value} in {title}" for title, value in values.items()]
            unlike.append(f"{name} {', '.join(_few(shown))}")
    sentences = [f"Not the same: {'; '.join(unlike)}."] if unlike else []
    lost = [f"{run.title}: {', '.join(_few(run.lost))}" for run in runs if run.lost]
    return [*sentences, *([f"Signal was lost in single volumes: {'; '.join(lost)}."] if lost else [])]


def advice_sentences(
    runs: Sequence[RunAnswers], found: Sequence[Difference], levels: Mapping[str, tuple[str, str]]
) -> list[str]:
    """What to do, the most important first."""
    advice = []
    if found:
        places = listed(_few(list(dict.fromkeys(difference.tissue for difference in found))))
        advice.append(f"Report each run by itself: {places} must not be averaged over runs that disagree.")
    if any(run.lost for run in runs):
        advice.append(
            "Look at the volumes that lost signal (section Volumes), and process again without the worst "
            "(--ignore-volumes)."
        )
    cut = list(
        dict.fromkeys(t.name for run in runs if run.named for t in run.tissues if t.inside < MOSTLY_INSIDE)
    )
    if cut:
        advice.append(f"Give a mask that holds {listed(_few(cut))}, or let one be made (--mask-desc none).")
    if not any(run.named for run in runs):
        advice.append("Give a segmentation with -d to have numbers per organ.")
    if levels and {level for level, _ in levels.values()} == {POOR}:
        advice.append("Report F and D, and leave out D*.")
    elif any(level != GOOD for level, _ in levels.values()):
        advice.append("Report D* only where the line above believes it.")
    if any(max(run.fluid, run.vessels) >= NOTABLE_SHARE for run in runs):
        advice.append("Leave fluid and vessels out of regions before F is averaged.")
    weak = {name: words for run in runs for name, words in run.advice.items()}
    for name, words in list(weak.items())[:MOST_CHECKS]:
        advice.append(f"{words.rstrip('.')} ({name[:1].lower()}{name[1:]}).")
    return advice or ["Nothing stands against the use of the maps: look at them, and rate the run."]


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


def numbers(tissue: Tissue) -> str:
    """F, D and D* with their standard deviations over the voxels; D and D* in 10^-3 mm^2/s.

    Examples
    --------
    >>> numbers(Tissue("liver", 50, {"f": 0.32, "d": 0.00105}, deviations={"f": 0.1}))
    'F 32 ± 10 %, D 1.05'
    """
    labels = [label for label in TISSUE_LABELS if label in tissue.medians]
    if "dstar" in labels and tissue.medians["f"] < NEGLIGIBLE_F:
        labels.remove("dstar")
    return ", ".join(f"{SPECS[label].symbol} {_value(tissue, label)}" for label in labels)


def _value(tissue: Tissue, label: str) -> str:
    spec = SPECS[label]
    deviation = tissue.deviations.get(label, math.nan) * spec.factor
    text = with_error(tissue.medians[label] * spec.factor, deviation)
    return f"{text} %" if spec.shown_unit == "%" else text


def with_error(value: float, error: float) -> str:
    """A number with its standard deviation, and no more digits than that leaves.

    Examples
    --------
    >>> with_error(32.14, 10.6), with_error(0.652, 0.17), with_error(62.1, math.nan)
    ('32 ± 11', '0.65 ± 0.17', '62.1')
    """
    if not math.isfinite(error) or error <= 0:
        return format_number(value)
    decimals = min(4, max(0, 1 - math.floor(math.log10(error))))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def two_digits(value: float) -> str:
    """A positive number with two significant digits.

    Examples
    --------
    >>> two_digits(12.6), two_digits(0.0505)
    ('13', '0.051')
    """
    return format_number(value, 2) if value < 10 else f"{value:.0f}"


def _apart(a: Tissue, b: Tissue) -> bool:
    """True when two values of F of one run differ by more than chance allows (95 %)."""
    return abs(a.medians["f"] - b.medians["f"]) > 1.96 * math.hypot(a.error("f"), b.error("f"))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _relative(share: float) -> str:
    return f"{100 * share:.0f} %" if share < 10 else "more than ten times"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _few(words: Sequence[str], most: int = SHOWN_RUNS) -> list[str]:
    more = len(words) - most
    return list(words) if more <= 0 else [*words[:most], f"{more} more"]


def _shown(sentences: list[str], most: int, noun: str) -> list[str]:
    more = len(sentences) - most
    return sentences if more <= 0 else [*sentences[:most], f"{more} more {noun}s: see their sections."]
