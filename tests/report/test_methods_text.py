"""The methods text says what was done with the settings used, and cites what is behind it."""

from __future__ import annotations

import pytest

from sicnn_app.report.methods import citation_markdown, methods_paragraphs, methods_text
from sicnn_app.report.references import REFERENCES

SOFTWARE = {
    "sicnn-app": "9.8.7",
    "torch": "2.13.0",
    "nibabel": "5.4.2",
    "pybids": "0.22.0",
    "dipy": "1.12.1",
}
PARAMETERS = {
    "Method": "si-cnn",
    "UpdateRule": "observed-neighbours",
    "FittingThreshold": "2.5sigma",
    "NeighbourThreshold": "0.02",
    "NeighbourRadius": 7,
    "NetworkInput": "noisy",
    "RicianModel": True,
    "Lambda": 0.0125,
    "Delta": 0.05,
    "MaxIterations": 33,
    "LearningRate": 0.0003,
    "BatchSize": 25,
    "Dropout": 0.01,
    "RandomSeed": 42,
    "Bounds": {"f": [0.0, 1.0], "d": [0.0, 0.005], "dstar": [0.005, 0.2], "s0": [0.5, 1.5]},
    "DataIterations": 11,
    "StopReason": "the training signals settled",
    "BValuesUsed": [0.0, 10.0, 400.0, 800.0],
    "BValueRepeats": [3, 6, 6, 6],
    "NoiseSigma": 17.25,
    "NoiseMethod": "differences of repeats",
    "SignalToNoiseRatioPerBValue": [23.4, 20.0, 12.0, 8.0],
    "Anatomy": "body",
    "MaskSource": "bids:masks:sub-01/anat/sub-01_mask.nii.gz",
    "PreprocessingSteps": [
        {"Name": "Volume selection", "Description": "21 of 24 volumes used"},
        {"Name": "Denoising", "Description": "MP-PCA, patch radius 2"},
    ],
}


@pytest.mark.parametrize(
    "expected",
    [
        "sicnn-app 9.8.7",
        "4 b-values (0, 10, 400, 800 s/mm²) in 21 volumes",
        "(1) Volume selection: 21 of 24 volumes used; (2) Denoising: MP-PCA, patch radius 2",
        "body mask (bids:masks:sub-01/anat/sub-01_mask.nii.gz)",
        "17.2 image units (differences of repeats)",
        "ratio of 23.4",
        "D* to 0.005-0.2 mm²/s",
        "reconstructed from the supplement",
        "exceeded 2.5 times the noise",
        "difference below 0.02 of the normalised signal",
        "radius 7 voxels",
        "mean of the measured signals of voxels with similar predicted curves",
        "11 data iterations were done, at most 33 allowed (stop: the training signals settled)",
        "learning rate 0.0003",
        "batch size 25",
        "dropout 0.01",
        "lambda 0.0125",
        "delta 0.05",
        "random seed 42",
        "Rician",
        "PyTorch 2.13.0",
    ],
)
def test_actual_settings_are_named(expected):
    assert expected in methods_text(PARAMETERS, SOFTWARE)


def test_it_claims_a_reconstruction_only():
    for method in ("si-cnn", "di-cnn", "cnn", "lsq"):
        text = methods_text({**PARAMETERS, "Method": method}, SOFTWARE).lower()
        assert "exact reproduction" not in text
        assert ("reconstructed from the supplement" in text) == (method in ("si-cnn", "di-cnn"))
    assert "exact reproduction" not in citation_markdown().lower()
    assert "reconstructed from the supplement" in citation_markdown()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("predicted-neighbours", "mean of the predicted signals"),
        ("own-prediction", "the network's own prediction"),
    ],
)
def test_update_rule_is_described(rule, expected):
    text = methods_text({**PARAMETERS, "UpdateRule": rule}, SOFTWARE)
    assert expected in text and "mean of the measured signals" not in text
    assert ("radius 7" in text) == ("neighbours" in rule)


def test_references_follow_the_method_the_steps_and_the_software():
    full = methods_text(PARAMETERS, SOFTWARE)
    for key in ("supplement", "huang", "lebihan", "veraart", "pybids", "dipy", "nibabel", "torch"):
        assert REFERENCES[key] in full, key
    assert REFERENCES["fadnavis"] not in full and REFERENCES["kellner"] not in full
    lsq = methods_text({"Method": "lsq"}, {"nibabel": "5"})
    assert REFERENCES["lebihan"] in lsq and REFERENCES["nibabel"] in lsq
    assert not any(REFERENCES[key] in lsq for key in ("supplement", "huang", "torch", "veraart"))
    assert "least squares" in lsq and "network" in lsq.split("### References")[0]


def test_steps_left_out_are_named_as_such_and_cite_nothing():
    steps = [
        {"Name": "Volume selection", "Description": "21 of 24 volumes used"},
        {"Name": "Denoising", "Description": "Not done: automatic, MP-PCA needs more volumes"},
        {"Name": "Gibbs unringing", "Description": "Not done: not asked for"},
    ]
    text = methods_text({**PARAMETERS, "PreprocessingSteps": steps}, SOFTWARE)
    assert "consisted of: (1) Volume selection: 21 of 24 volumes used." in text
    assert "Not done: Denoising, Gibbs unringing." in text
    assert REFERENCES["veraart"] not in text and REFERENCES["kellner"] not in text


def test_huang_is_cited_as_in_the_supplement():
    assert "67(21):215018" in REFERENCES["huang"] and "Huang" in REFERENCES["huang"]


def test_nothing_known_still_gives_a_text():
    text = methods_text({}, {})
    assert "n/a" not in text and "None" not in text and "Le Bihan" in text


def test_spelling_of_keys_does_not_matter():
    snake = {"method": "si-cnn", "fitting_threshold": "0.03", "max_iterations": 5, "data_iterations": 2}
    assert "exceeded 0.03 of the normalised signal" in methods_text(snake, {})


def test_citation_lists_every_reference_once():
    text = citation_markdown()
    assert text.startswith("# ") and all(text.count(reference) == 1 for reference in REFERENCES.values())


def test_text_is_the_same_every_time():
    assert methods_text(PARAMETERS, SOFTWARE) == methods_text(dict(PARAMETERS), dict(SOFTWARE))


def test_what_makes_voxels_similar_is_said_as_it_is_set():
    similarity = {"distance": "maximum", "weighting": "gaussian", "s0_ratio": 1.35}
    text = methods_text({**PARAMETERS, "similarity": similarity}, SOFTWARE)
    assert "largest difference below 0.02" in text
    assert "Gaussian" in text and "1.35 times" in text
    plain = {"distance": "root-mean-square", "weighting": "equal", "s0_ratio": None}
    text = methods_text({**PARAMETERS, "similarity": plain}, SOFTWARE)
    assert "root-mean-square difference below 0.02" in text and "equal weights" in text
    assert "brighter" not in text


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"RicianModel": True}, "Rician noise model in the loss"),
        ({"RicianModel": False, "noise_floor_taken_off": True}, "noise floor taken off the means"),
        ({"RicianModel": None, "rician": True}, "Rician noise taken into account"),
    ],
)
def test_how_the_noise_floor_was_reckoned_with_is_said(facts, words):
    assert words in methods_text({**PARAMETERS, **facts}, SOFTWARE)


def test_how_an_ensemble_was_made_is_said():
    facts = {"ensemble": 5, "ensemble_resampling_strength": 0.5}
    for ways, words in (
        (["noise", "noise"], "drawn as Gaussian noise of the estimated size, 0.500 times as large"),
        (["bootstrap"], "drawn by a bootstrap of the repeats of every direction, 0.500"),
        (["bootstrap", "noise"], "where a b-value had at least three, and as Gaussian noise"),
    ):
        text = methods_text({**PARAMETERS, **facts, "ensemble_resampling_per_b_value": ways}, SOFTWARE)
        assert "5 networks with initial weights of their own" in text and words in text
    assert "networks with initial weights" not in methods_text({**PARAMETERS, "ensemble": 1}, SOFTWARE)


def test_the_conventional_fit_is_named_where_it_was_made():
    words = "For comparison the same signals were fitted by least squares"
    software = dict(SOFTWARE)
    assert words in methods_text(PARAMETERS, SOFTWARE)
    assert words not in "".join(methods_paragraphs(PARAMETERS, software, compared=False))
    assert words not in methods_text({**PARAMETERS, "Method": "lsq"}, SOFTWARE)
