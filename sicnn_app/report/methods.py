"""Run record -> methods text for a paper, and the references behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sicnn_app.derivatives.facts import (
    MISSING,
    Facts,
    as_number,
    count_of,
    format_number,
    in_words,
    stop_in_words,
)
from sicnn_app.ivim.parameters import MAPS
from sicnn_app.methods import HUANG, METHODS, Method
from sicnn_app.report.references import REFERENCES
from sicnn_app.settings import EstimationSettings, options_of
from sicnn_app.steps import NOT_DONE, STEPS

_LIBRARIES = {"pybids": "PyBIDS", "dipy": "DIPY", "nibabel": "NiBabel", "torch": "PyTorch"}
_UPDATE_RULES = {
    "observed-neighbours": "the mean of the measured signals of voxels with similar predicted curves",
    "predicted-neighbours": "the mean of the predicted signals of voxels with similar predicted curves",
    "own-prediction": "the network's own prediction",
}
CONVENTIONAL = (
    "For comparison the same signals were fitted by least squares, voxel by voxel, within the same limits."
)
"""Where maps of the conventional fit stand beside those of a network."""


def methods_text(parameters: dict[str, Any], software: dict[str, str]) -> str:
    """One run in the past tense with the settings that were used: paragraphs and references, Markdown.

    Parameters
    ----------
    parameters : dict
        ``Model.Parameters`` of the sidecar of a map; whatever is missing is left out of the text.
    software : dict of str to str
        ``SoftwareVersions``: name to version.
    """
    references = references_of(parameters, software)
    listed = "\n".join(f"{number}. {text}" for number, text in enumerate(references, start=1))
    return "\n\n".join([*methods_paragraphs(parameters, software), "### References", listed]) + "\n"


def methods_paragraphs(
    parameters: Mapping[str, Any], software: Mapping[str, str], *, compared: bool | None = None
) -> list[str]:
    """The paragraphs of :func:`methods_text` without the references.

    ``compared`` says whether there are maps of the conventional fit, too; by default with every network.
    """
    facts = Facts(parameters)
    method = _method(facts)
    compared = (method is not None and method.trains) if compared is None else compared
    paragraphs = (
        _data(facts, software),
        _preparation(facts),
        _model(facts),
        " ".join(filter(None, [_estimation(facts), CONVENTIONAL if compared else ""])),
        _quality(facts),
        _software(software),
    )
    return [text for text in paragraphs if text]


def references_of(parameters: Mapping[str, Any], software: Mapping[str, str]) -> list[str]:
    """The references that the methods text of a run cites, in the order of :data:`REFERENCES`."""
    facts = Facts(parameters)
    cited = {"lebihan", "bids", "gudbjartsson"}
    steps = " ".join(in_words(step) for step in _steps(facts) if was_done(step)).lower()
    cited |= {"dempster"} if facts.get("refinement") == "posterior" else set()
    cited |= {key for key in _LIBRARIES if key in {name.lower() for name in software}}
    method = _method(facts)
    own = [HUANG] if method is None else list(method.references)
    cited_by_steps = {word: text for step in STEPS.values() for word, text in step.references.items()}
    own += dict.fromkeys(text for word, text in cited_by_steps.items() if word in steps)
    known = [text for key, text in REFERENCES.items() if key in cited or text in own]
    return [*(text for text in own if text not in known), *known]


def citation_markdown() -> str:
    """The ``CITATION.md`` of an output folder: what to say and what to cite."""
    listed = "\n".join(f"- {text}" for text in REFERENCES.values())
    return (
        "# How to cite\n\nThe maps were estimated with sicnn-app. Its default method is SI-CNN, "
        "reconstructed from the supplement of the method's authors; please say so, and give the version of "
        "the app, the method and the settings that the sidecar of every map records under "
        "`Model.Parameters`. The HTML report of each subject holds a methods text with the settings of "
        "each run, ready to be used.\n\nPlease cite the works behind the steps that your run used (the "
        f"report lists just these):\n\n{listed}\n"
    )


def _method(facts: Facts) -> Method | None:
    return METHODS.get(str(facts.get("method") or "").lower())


def _steps(facts: Facts) -> list[Any]:
    steps = facts.get("preprocessing_steps")
    return steps if isinstance(steps, list) else []


def step_in_words(step: Any) -> str:
    """One preprocessing step: its name and what it did."""
    if not isinstance(step, Mapping):
        return in_words(step)
    name, description = in_words(step.get("Name")), in_words(step.get("Description")).rstrip(".")
    if description == MISSING:
        return name
    return description if name == MISSING else f"{name[0].upper()}{name[1:]}: {description}"


def was_done(step: Any) -> bool:
    """True when a step changed anything; the others are recorded with the reason why not."""
    return not (isinstance(step, Mapping) and str(step.get("Description", "")).startswith(NOT_DONE))


def has_step(steps: Any, word: str) -> bool:
    """True when the name of a step contains ``word``."""
    names = [str(step.get("Name", "")) for step in steps or [] if isinstance(step, Mapping)]
    return any(word in name.lower() for name in names)


def _data(facts: Facts, software: Mapping[str, str]) -> str:
    version = software.get("sicnn-app", software.get("sicnn_app"))
    app = f"sicnn-app {version}" if version else "sicnn-app"
    bvals = facts.numbers("b_values_used")
    repeats = facts.numbers("b_value_repeats")
    used = f" with {count_of(len(bvals), 'b-value')} ({in_words(bvals)} s/mm²)" if bvals else ""
    volumes = f" in {count_of(int(sum(repeats)), 'volume')}" if repeats else ""
    return (
        f"Diffusion-weighted images{used}{volumes}, organised by the Brain Imaging Data Structure "
        f"(Gorgolewski et al., 2016), were processed with {app}."
    )


def _preparation(facts: Facts) -> str:
    sentences = []
    steps = [step for step in _steps(facts) if was_done(step)]
    left_out = [in_words(step.get("Name")) for step in _steps(facts) if not was_done(step)]
    if steps:
        listed = "; ".join(f"({number}) {step_in_words(step)}" for number, step in enumerate(steps, start=1))
        sentences.append(f"Preprocessing consisted of: {listed}.")
    if left_out:
        sentences.append(f"Not done: {', '.join(left_out)}.")
    if not has_step(steps, "averag"):
        sentences.append("All volumes of one b-value were averaged to one signal per voxel.")
    label = facts.get("mask_label", "anatomy")
    if (source := facts.get("mask_source")) is not None:
        named = f"{label} mask" if label else "mask"
        sentences.append(f"The estimation was restricted to a {named} ({in_words(source)}).")
    if (sigma := facts.number("noise_sigma")) is not None:
        how = facts.get("noise_method")
        sentence = (
            f"The noise standard deviation of a single volume was estimated as {format_number(sigma)} image "
            f"units{f' ({in_words(how)})' if how else ''}"
        )
        if snr := facts.numbers("signal_to_noise_ratio_per_b_value"):
            sentence += f", a median signal-to-noise ratio of {format_number(snr[0])} at the lowest b-value"
        sentences.append(f"{sentence}.")
    return " ".join(sentences)


def _model(facts: Facts) -> str:
    text = (
        "The signals were described by the bi-exponential model of intravoxel incoherent motion, S(b) = S0 "
        "[F exp(-b D*) + (1 - F) exp(-b D)] (Le Bihan et al., 1988), with perfusion fraction F, diffusion "
        "coefficient D and pseudo-diffusion coefficient D*, the full second exponent."
    )
    if (method := _method(facts)) and method.model:
        text = f"The signals were described by intravoxel incoherent motion, {method.model}."
    bounds = facts.get("bounds")
    if isinstance(bounds, Mapping):
        intervals = [
            f"{spec.symbol} to {in_words(interval[0])}-{in_words(interval[1])}"
            + (" mm²/s" if spec.unit == "mm^2/s" else "")
            for spec in MAPS
            if spec.of_tissue
            and isinstance(interval := bounds.get(spec.label), list | tuple)
            and len(interval) == 2
        ]
        text += f" The parameters were limited: {', '.join(intervals)}." if intervals else ""
    return text


def _estimation(facts: Facts) -> str:
    method = _method(facts)
    if method is None:
        return ""
    network = (
        f"an unsupervised convolutional neural network (after Huang, 2022), trained {_scope(facts)} without "
        "any reference maps, turned the signals of all b-values into maps of F, D and D*; the IVIM equation "
        "turned the maps back into signals, and the difference from the training signals was the loss"
    )
    text = method.sentence.format(network=network, rewriting=_rewriting(facts, method))
    training = [_training_settings(facts), _ensemble(facts), _refinement(facts)] if method.trains else []
    return " ".join(filter(None, [text, *training]))


def _scope(facts: Facts) -> str:
    own = "on this subject's own images"
    if facts.get("training_scope") != "study":
        return own
    runs, epochs = facts.number("study_runs"), facts.number("study_epochs")
    together = "all runs" if runs is None else f"{runs:.0f} runs"
    length = "" if epochs is None else f" for {count_of(int(epochs), 'epoch')}"
    return f"first on the images of {together} of the study together{length}, then {own},"


def _rewriting(facts: Facts, method: Method) -> str:
    if not method.update_rules:
        return ""
    rule = str(facts.get("update_rule") or method.update_rules[0])
    fitting = facts.get("fitting_threshold")
    over = f"exceeded {_threshold(fitting)}" if fitting is not None else "was large"
    sentence = (
        "Training and rewriting alternated: after each training, training signals whose fitting error "
        f"{over} were replaced by {_UPDATE_RULES.get(rule, rule)}"
    )
    if "neighbours" in rule:
        limits = _similarity(facts)
        sentence += f" ({', '.join(limits)})" if limits else ""
    if (done := facts.number("data_iterations")) is not None:
        many = f"{count_of(int(done), 'data iteration')} were done"
        sentence += f"; {'one data iteration was done' if done == 1 else many}"
        limit = facts.number("max_iterations")
        sentence += "" if limit is None else f", at most {limit:.0f} allowed"
    reason = facts.get("stop_reason")
    return f"{sentence} (stop: {stop_in_words(reason)})." if reason else f"{sentence}."


def _similarity(facts: Facts) -> list[str]:
    """Limits of similarity, in words."""
    limits = []
    similarity = facts.get("similarity")
    similarity = similarity if isinstance(similarity, dict) else {}
    if (neighbour := facts.get("neighbour_threshold")) is not None:
        distance = in_words(similarity.get("distance", "root-mean-square"))
        difference = "largest" if distance == "maximum" else distance
        gaussian = similarity.get("weighting") == "gaussian"
        limits += [
            f"{difference} difference below {_threshold(neighbour)}{_noise_left(facts)}",
            "weights falling as a Gaussian of the difference" if gaussian else "equal weights",
        ]
    if (ratio := as_number(similarity.get("s0_ratio"))) is not None:
        limits.append(f"S0 at most {ratio:g} times brighter or darker")
    if (radius := facts.get("neighbour_radius")) is not None:
        limits.append(f"search window of radius {in_words(radius)} voxels")
    return limits


def _noise_left(facts: Facts) -> str:
    left = facts.number("noise_left_by_denoising")
    return "" if left is None or left >= 1 else f", of which denoising had left {left:.2g}"


def _threshold(value: Any) -> str:
    text = in_words(value)
    in_noise = text.endswith("sigma")
    return text.replace("sigma", " times the noise") if in_noise else f"{text} of the normalised signal"


def _training_settings(facts: Facts) -> str:
    rows = options_of(EstimationSettings).items()
    named = sorted((option.in_text, option.key(name)) for name, option in rows if option.in_text)
    given = [
        f"{key.replace('_', ' ')} {in_words(value)}"
        for _, key in named
        if (value := facts.get(key)) is not None
    ]
    if facts.get("rician_model") is True:
        given.append("a Rician noise model in the loss")
    elif facts.get("noise_floor_taken_off") is True:
        given.append("the Rician noise floor taken off the means of similar voxels")
    elif facts.get("rician") is True:
        given.append("Rician noise taken into account")
    return f"Settings: {', '.join(given)}." if given else ""


def _ensemble(facts: Facts) -> str:
    """The way to several networks and their spread; nothing for a single one."""
    members = facts.number("ensemble")
    if members is None or members < 2:
        return ""
    ways = facts.strings("ensemble_resampling_per_b_value")
    drawn = {
        frozenset({"bootstrap"}): "by a bootstrap of the repeats of every direction",
        frozenset({"noise"}): "as Gaussian noise of the estimated size",
        frozenset(
            {"bootstrap", "noise"}
        ): "by a bootstrap of the repeats of every direction where a b-value had "
        "at least three, and as Gaussian noise of the estimated size elsewhere",
    }.get(frozenset(ways), "anew")
    strength = facts.number("ensemble_resampling_strength")
    share = "" if strength is None else f", {format_number(strength)} times as large"
    spread = "the standard deviations over them, multiplied with factors found in simulations, are given with"
    refined = facts.get("refinement") == "posterior"
    return (
        f"{members:.0f} networks with initial weights of their own were trained side by side on signals to "
        f"which noise was added, drawn {drawn}{share}; "
        + ("their mean maps were refined." if refined else f"the maps are their means, and {spread} them.")
    )


def _refinement(facts: Facts) -> str:
    """How the network's maps met the voxel's own signals; nothing where they are as they were."""
    if facts.get("refinement") != "posterior":
        return ""
    evidence, rounds = facts.get("refinement_evidence"), facts.number("refinement_rounds")
    signals = "" if evidence is None else f" ({in_words(evidence)})"
    similar = (
        ", and in F and D maps estimated without it from one tissue everywhere, all moved by the mean "
        "signals of similar voxels of the whole image,"
        if facts.get("refinement_prior")
        else ""
    )
    maps = f"The network's maps{similar}"
    many = "" if rounds is None else f", {count_of(int(rounds), 'round')}"
    departure = facts.get("refinement_departure_median")
    known = isinstance(departure, Mapping) and (as_number(departure.get("f")) is not None)
    wide = f", in the median by {format_number(departure['f'])} in F" if known else ""
    return (
        f"{maps} were then refined: they are the prior of a Bayesian estimate from each voxel's "
        f"own signals{signals}. How far tissue departs from the prior around every voxel was found by "
        f"expectation maximisation (Dempster et al., 1977{many}){wide}. The maps are the modes of the "
        "posterior, and its standard deviations, which reckon with the noise that prior and signals have in "
        "common, are given with them."
    )


def _quality(facts: Facts) -> str:
    method = _method(facts)
    lonely = " or no similar neighbour was found" if method and method.searches_neighbours else ""
    return (
        "Voxels whose signal was cut off, in which a parameter reached its limit, the residual exceeded the "
        "noise, F was too small to define D* or the signal was too weak for near-Gaussian noise "
        f"(Gudbjartsson and Patz, 1995){lonely} were flagged."
    )


def _software(software: Mapping[str, str]) -> str:
    lowered = {name.lower(): version for name, version in software.items()}
    used = [f"{name} {lowered[key]}" for key, name in _LIBRARIES.items() if key in lowered]
    return f"Software: {', '.join(used)}." if used else ""
