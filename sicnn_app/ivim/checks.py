"""The questions asked of every run, and the verdict; thresholds have their reasons beside them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sicnn_app.formats import listed
from sicnn_app.ivim.adequacy_inputs import (
    DOUBTFUL,
    GOOD,
    POOR,
    UNKNOWN,
    Adequacy,
    Check,
    Evidence,
    Numbers,
    Tissue,
)
from sicnn_app.ivim.flags import MIN_SIGNAL_TO_NOISE, NEGLIGIBLE_F
from sicnn_app.ivim.parameters import SPECS, TISSUE_LABELS
from sicnn_app.ivim.precision import cramer_rao_bounds
from sicnn_app.ivim.series import MAX_LOW_BVAL
from sicnn_app.ivim.signal import ivim_signal

SNR_B0 = (10.0, 20.0)
"""Poor below, good from: two standard deviations of one averaged signal are then a perfusion fraction of 0.2
(liver) or 0.1 (muscle, kidney)."""

SNR_HIGHEST = (MIN_SIGNAL_TO_NOISE, 5.0)
"""Of one volume, because averaging takes no noise floor off: the mean of a Rician magnitude is about
1 / (2 SNR^2) too high (Gudbjartsson and Patz, Magn Reson Med 1995;34:910-914), 6 % and 2 % here."""

LOW_BVALS = (2, 4)
"""b-values above 0 and up to 200 s/mm^2, where perfusion shows. With b = 0 two determine S0, F and D* without
any to spare; four hold twice what the two unknowns F and D* need."""

LOWEST_BVAL = (10.0, 1.0)
"""s/mm^2. Poor above, good up to: at b = 10 half of the signal of blood with a D* of 0.07 mm^2/s is gone."""

HIGH_BVALS = (1, 2)
"""b-values above 200 s/mm^2, where diffusion alone is left; a slope takes two."""

HIGHEST_BVAL = (300.0, 400.0)
"""s/mm^2. From twice 200 on, D has as wide a range of b for itself as the perfusion has."""

RELATIVE_BOUND = (1.0, 0.25)
"""Cramer-Rao bound over the value. Poor above 1, where noise is larger than what is measured; good up to a
quarter: two voxels whose true values differ by half then differ by more than the noise of the difference."""

NETWORK_GAIN = (0.9, 0.6)
"""Standard deviation with the network over that of the best fit of the voxel alone, mean of F, D and D*. Poor
above 0.9, where other voxels say hardly anything new; at 0.6 they are worth nearly two more measurements."""

MOTION = (1.0, 0.25)
"""Mean framewise displacement over the smallest voxel edge. Poor above a voxel, where even a small error of
the correction mixes neighbours; up to a quarter three quarters of the signal stay in their voxel."""

AT_BOUND = (0.20, 0.05)
"""Share of voxels with a parameter at a bound. One in twenty are vessels and the rim of the mask; from one in
five on the medians rest on voxels in which the data held no answer."""


NO_PERFUSION = (
    "no perfused tissue",
    UNKNOWN,
    f"F is below {NEGLIGIBLE_F:g} nearly everywhere: there is no perfusion to be precise about.",
)
NOISE_UNKNOWN = ("noise unknown", UNKNOWN, "The noise could not be estimated.")
"""Value, verdict and meaning where there is nothing to hold the signals against."""


def _graded(value: float, limits: tuple[float, float]) -> str:
    """Verdict on a number: poor beyond the first limit, good from the second on, on its side of the first."""
    poor, good = limits
    if poor < good:
        return POOR if value < poor else GOOD if value >= good else DOUBTFUL
    return POOR if value > poor else GOOD if value <= good else DOUBTFUL


def precision_verdict(relative: float) -> str:
    """Verdict on the smallest standard deviation of a single voxel, as a share of the value itself."""
    return _graded(relative, RELATIVE_BOUND)


AT_B0 = {
    GOOD: "The signal stands well above the noise.",
    DOUBTFUL: "Small perfusion fractions drown in the noise: average over regions.",
    POOR: "Even a large perfusion fraction is hardly above the noise: acquire more, or larger voxels.",
}
AT_HIGHEST = {
    GOOD: "The noise floor of magnitude images does not matter.",
    DOUBTFUL: "The noise floor lifts the signal by a few per cent, which lowers D a little.",
    POOR: "The noise floor bends the decay and D gets too low: leave out the highest b-values (--max-bval), "
    "or read D with care.",
}


def _signal_to_noise(
    place: int, column: str, judged: str, limits: tuple[float, float], meanings: dict[str, str]
) -> Callable[[Evidence], Check]:
    """Check of the signal at one b-value; the limits are of the ratio that ``judged`` names."""

    def check(evidence: Evidence) -> Check:
        name = f"Signal / noise at b\u00a0=\u00a0{evidence.bvals[place]:g}"
        if not evidence.noise_known:
            return Check(name, *NOISE_UNKNOWN, {column: None})
        ratios = {
            "after averaging": float(evidence.signal[place] / evidence.sigma_per_bval[place]),
            "of one volume": float(evidence.signal[place] / evidence.sigma),
        }
        verdict = _graded(ratios[judged], limits)
        value = f"{ratios[judged]:.3g} {judged}"
        return Check(name, value, verdict, meanings[verdict], {column: ratios["after averaging"]})

    return check


def _low_bvals(evidence: Evidence) -> Check:
    lowest = float(evidence.bvals[0])
    count = int(np.count_nonzero((evidence.bvals > 0) & (evidence.bvals <= MAX_LOW_BVAL)))
    verdict = _worst(_graded(count, LOW_BVALS), _graded(lowest, LOWEST_BVAL))
    meaning = {
        GOOD: "The fast decay of the blood signal is sampled.",
        DOUBTFUL: "The fast decay is sampled sparsely: F and D* are easily confused.",
        POOR: "The fast decay is not sampled, F and D* cannot be told: acquire more low b-values.",
    }[verdict]
    value = f"{count} from above 0 to {MAX_LOW_BVAL:g}, lowest b = {lowest:g}"
    return Check("Low b-values", value, verdict, meaning, {"low_b_values": count})


def _high_bvals(evidence: Evidence) -> Check:
    highest = float(evidence.bvals[-1])
    count = int(np.count_nonzero(evidence.bvals > MAX_LOW_BVAL))
    verdict = _worst(_graded(count, HIGH_BVALS), _graded(highest, HIGHEST_BVAL))
    meaning = {
        GOOD: "Diffusion can be told from perfusion.",
        DOUBTFUL: "Diffusion and perfusion are told apart with little to spare: errors of D go into F.",
        POOR: "No range of b is left to diffusion alone: D and F are mixed; acquire higher b-values.",
    }[verdict]
    value = f"{count} above {MAX_LOW_BVAL:g}, highest b = {highest:g}"
    return Check("High b-values", value, verdict, meaning, {"high_b_values": count})


def _nothing_known(evidence: Evidence) -> tuple[str, str, str]:
    return NO_PERFUSION if evidence.noise_known else NOISE_UNKNOWN


def _relative_bounds(evidence: Evidence, tissue: Tissue) -> dict[str, float]:
    """Smallest standard deviation of a voxel of this tissue by itself over the values, by label."""
    values = (tissue.f, tissue.d, tissue.dstar)
    # The lowest b-value may lie above 0, where the signal is less than S0.
    s0 = evidence.signal[0] / ivim_signal(evidence.bvals[0], *values)
    bounds = cramer_rao_bounds(evidence.bvals, evidence.sigma_per_bval / s0, *values)
    return {
        label: float(bounds[label]) / value if value > 0 else np.inf
        for label, value in zip(TISSUE_LABELS, values, strict=True)
    }


def _precision(label: str, symbol: str) -> Callable[[Evidence], Check]:
    name, column = f"Precision of {symbol}", f"bound_{label}"

    def check(evidence: Evidence) -> Check:
        tissue = evidence.tissue
        if not evidence.noise_known or tissue is None:
            return Check(name, *_nothing_known(evidence), {column: None})
        relative = _relative_bounds(evidence, tissue)[label]
        verdict = precision_verdict(relative)
        if not np.isfinite(relative):
            meaning = "These b-values do not determine it, whatever the noise."
            return Check(name, "not determined", verdict, meaning, {column: None})
        voxels = f"about {np.ceil((relative / RELATIVE_BOUND[1]) ** 2):.0f} voxels"
        meaning = {
            GOOD: "Single voxels can be compared.",
            DOUBTFUL: f"Compare means over {voxels} or more, not single voxels.",
            POOR: f"The noise of a voxel is larger than the value: believe means over {voxels} or more only.",
        }[verdict]
        value = getattr(tissue, label)
        in_units = f"{100 * value:.3g} %" if label == "f" else f"{1e3 * value:.3g} × 10⁻³ mm²/s"
        return Check(name, f"± {100 * relative:.3g} % of {in_units}", verdict, meaning, {column: relative})

    return check


def _network(evidence: Evidence) -> Check:
    name, tissue = "Worth of a network", evidence.tissue
    if not evidence.noise_known or tissue is None:
        return Check(name, *_nothing_known(evidence), {"snr_averaged": None})
    ratio = float(evidence.signal[0] / np.sqrt(np.mean(np.square(evidence.sigma_per_bval))))
    bounds = _relative_bounds(evidence, tissue)
    gains = {SPECS[label].symbol: spread / bounds[label] for label, spread in tissue.spread.items()}
    if not gains:
        meaning = "These maps have no standard deviations to tell it from: --method si-cnn makes them."
        return Check(name, "not measured", UNKNOWN, meaning, {"snr_averaged": ratio})
    verdict = _graded(float(np.mean(list(gains.values()))), NETWORK_GAIN)
    meaning = {
        GOOD: "Similar voxels tell much that a voxel alone does not.",
        DOUBTFUL: "Similar voxels help a little: look at the conventional fit as well.",
        POOR: "Similar voxels add next to nothing: the conventional fit is as precise, and draws on none.",
    }[verdict]
    shown = ", ".join(f"{symbol} {gain:.2g}" for symbol, gain in gains.items())
    return Check(name, f"{shown} of the SD of a voxel alone", verdict, meaning, {"snr_averaged": ratio})


def _motion(evidence: Evidence) -> Check:
    displacements = evidence.displacements
    if displacements is None or not np.isfinite(displacements).any():
        value = "not measured"
        meaning = "Nobody looked for motion: watch the b-value images, or use --motion-correction rigid."
        if evidence.preprocessed:
            value = "not measured here"
            meaning = "Another program made this series and may have corrected motion: see what it reports."
        mean, largest, verdict = None, None, UNKNOWN
    else:
        mean, largest = float(np.nanmean(displacements)), float(np.nanmax(displacements))
        verdict = _graded(mean / evidence.voxel_edge, MOTION)
        meaning = {
            GOOD: "It was small, and is corrected.",
            DOUBTFUL: "It is corrected, but edges of organs are blurred: mistrust values there.",
            POOR: "More than correction makes good: leave out the volumes that moved, or measure again.",
        }[verdict]
        value = f"{mean:.2g} mm on average, at most {largest:.2g} mm; voxel {evidence.voxel_edge:.2g} mm"
    numbers: Numbers = {"framewise_displacement_mean": mean, "framewise_displacement_max": largest}
    return Check("Motion", value, verdict, meaning, numbers)


def _at_bounds(evidence: Evidence) -> Check:
    name = "Voxels at a bound"
    if evidence.at_bound is None:
        return Check(name, "no voxels", UNKNOWN, "There are no voxels to count.")
    verdict = _graded(evidence.at_bound, AT_BOUND)
    meaning = {
        GOOD: "The data hold an answer nearly everywhere.",
        DOUBTFUL: "Some voxels hold no answer: leave the flagged ones out.",
        POOR: "Many voxels hold no answer: use unflagged voxels only, and look where the others lie.",
    }[verdict]
    value = f"{100 * evidence.at_bound:.1f} %"
    if evidence.conventional_at_bound is not None:
        value += f"; conventional fit {100 * evidence.conventional_at_bound:.1f} %"
    return Check(name, value, verdict, meaning)


def _worst(*verdicts: str) -> str:
    return next(word for word in (POOR, DOUBTFUL, GOOD) if word in verdicts)


CHECKS: dict[str, Callable[[Evidence], Check]] = {
    "snr_b0": _signal_to_noise(0, "snr_b0_averaged", "after averaging", SNR_B0, AT_B0),
    "snr_highest_b": _signal_to_noise(-1, "snr_highest_b_averaged", "of one volume", SNR_HIGHEST, AT_HIGHEST),
    "low_b_values": _low_bvals,
    "high_b_values": _high_bvals,
    **{f"precision_{label}": _precision(label, SPECS[label].symbol) for label in TISSUE_LABELS},
    "network": _network,
    "motion": _motion,
    "at_bound": _at_bounds,
}
"""By the name that tables use, in the order of the report."""


def judge(evidence: Evidence) -> Adequacy:
    """Check whether data and protocol suffice for maps of F, D and D*.

    The run is as poor as the poorest check, except that D* alone makes it doubtful at most, since F and D are
    of use without it, and that whether a network pays says nothing about the data.
    """
    checks = {key: check(evidence) for key, check in CHECKS.items()}
    found = {key: check.verdict for key, check in checks.items() if key != "network"}
    if found["precision_dstar"] == POOR:
        found["precision_dstar"] = DOUBTFUL
    verdict = next((word for word in (POOR, DOUBTFUL, GOOD) if word in found.values()), UNKNOWN)
    return Adequacy(verdict, _sentence(verdict, checks), checks)


def _sentence(verdict: str, checks: dict[str, Check]) -> str:
    words = {GOOD: "well", DOUBTFUL: "roughly", POOR: "hardly or not"}
    known = {SPECS[label].symbol: checks[f"precision_{label}"].verdict for label in TISSUE_LABELS}
    text = f"{verdict.capitalize()}."
    if UNKNOWN not in known.values():
        parts = [
            f"{listed([symbol for symbol, found in known.items() if found == word])} {words[word]}"
            for word in (GOOD, DOUBTFUL, POOR)
            if word in known.values()
        ]
        text += f" A single perfused voxel by itself determines {', '.join(parts)}."
    weak = [
        check.name.lower()
        for key, check in checks.items()
        if check.verdict in (DOUBTFUL, POOR) and not key.startswith(("precision", "network"))
    ]
    return f"{text} Weak besides: {'; '.join(weak)}." if weak else text
