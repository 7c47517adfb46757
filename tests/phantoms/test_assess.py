"""What sicnn-simulate --assess says about a protocol, and what it leaves on disk."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from sicnn_app.assess import expectation, trial
from sicnn_app.assess.expectation import Assessment, assess, perfused_tissues
from sicnn_app.assess.output import counted
from sicnn_app.cli.simulate import main
from sicnn_app.ivim.precision import cramer_rao_bounds
from sicnn_app.phantoms.acquire import Protocol
from sicnn_app.phantoms.dataset import SimulationSettings
from sicnn_app.settings import EstimationSettings

BVALS = ["0", "10", "30", "80", "150", "300", "600"]
WORDS = ["--preset", "abdomen", "--assess", "--shape", "22", "20", "1", "--bvals", *BVALS, "--snr", "30"]
WORDS += ["--repeats", "2"]


@pytest.fixture(scope="module")
def assessed(tmp_path_factory) -> tuple[Path, str]:
    """The folder of one assessment, and what it printed; SI-CNN is trained, though not to any good end."""
    folder = tmp_path_factory.mktemp("assessed") / "out"
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        quick = partial(EstimationSettings, max_iterations=1, delta=0.99)
        patch.setattr(trial, "EstimationSettings", quick)
        patch.setattr("sicnn_app.system.console.Console.line", lambda self, text: said.append(text))
        patch.setattr("sicnn_app.system.console.Console.table", lambda self, *table: said.append(repr(table)))
        assert main([str(folder), *WORDS]) == 0
    return folder, "\n".join(said)


@pytest.fixture
def rows(assessed) -> list[dict[str, str]]:
    with (assessed[0] / "assess.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture
def told(assessed) -> dict:
    return json.loads((assessed[0] / "assess.json").read_text(encoding="utf-8"))


@pytest.fixture
def only_bounds(monkeypatch):
    """Assessments whose simulation finds no voxels, for what does not depend on it."""
    nothing = {method: defaultdict(trial.Errors) for method in trial.COMPARED}
    monkeypatch.setattr(expectation, "try_methods", lambda *_args, **_options: nothing)


def settings(snr: float = 30.0, **options) -> SimulationSettings:
    protocol = Protocol(bvals=tuple(map(float, BVALS)), **options)
    return SimulationSettings("abdomen", protocol, snr, shape=(30, 26, 1))


def by_tissue(assessment: Assessment, parameter: str) -> np.ndarray:
    return np.array([row.bound for row in assessment.expectations if row.parameter == parameter])


def test_there_is_a_row_for_every_perfused_tissue_and_parameter_and_no_dataset(assessed, rows, told):
    folder, _ = assessed
    assert sorted(path.name for path in folder.glob("[!.]*")) == ["assess.json", "assess.svg", "assess.tsv"]
    names = [tissue.name for tissue in perfused_tissues("abdomen")]
    assert [(row["tissue"], row["parameter"]) for row in rows] == [
        (name, parameter) for name in names for parameter in ("f", "d", "dstar")
    ]
    assert "gallbladder" not in names and "vessel" not in names and "liver" in names
    assert all("Description" in told[column] for column in rows[0])


def test_the_bounds_are_those_of_the_tissue_with_its_own_brightness(rows, told):
    """Noise relative to S0 is not told; that two tissues have the ratio of their bounds shows it."""
    volumes = np.repeat(np.array(told["BValues"]), told["Volumes"])
    assert set(told["Volumes"]) == {2}
    tissues = {tissue.name: tissue for tissue in perfused_tissues("abdomen")}
    expected = {
        name: cramer_rao_bounds(volumes, 1.0 / tissues[name].s0, t.f, t.d, t.dstar)["d"]
        for name, t in tissues.items()
    }
    found = {row["tissue"]: float(row["bound"]) for row in rows if row["parameter"] == "d"}
    for name in tissues:
        assert found[name] / found["liver"] == pytest.approx(expected[name] / expected["liver"], rel=1e-5)


def test_errors_are_numbers_where_there_are_voxels(rows):
    for row in rows:
        assert (row["lsq_rmse"] == "n/a") == (row["voxels"] == "0") == (row["si_cnn_rmse"] == "n/a")
        if row["voxels"] != "0":
            for method in ("lsq", "si_cnn"):
                assert float(row[f"{method}_rmse"]) >= abs(float(row[f"{method}_bias"])) * (1 - 1e-6)
    assert any(row["voxels"] != "0" for row in rows)


def test_the_suggestion_takes_as_many_volumes_and_is_better(told, assessed):
    suggestion = told["Suggestion"]
    assert sum(suggestion["Volumes"]) == sum(told["Volumes"]) == 14
    assert suggestion["BValues"][0] == 0 and max(suggestion["BValues"]) <= 600
    assert suggestion["CriterionAfter"] < suggestion["CriterionBefore"]
    gains = suggestion["GainPerParameter"].values()
    product = math.prod(gains) ** (1 / 3)
    assert product == pytest.approx(suggestion["CriterionAfter"] / suggestion["CriterionBefore"], rel=1e-6)
    text = counted(np.repeat(suggestion["BValues"], suggestion["Volumes"]))
    assert f"better b-values for the same number of volumes: {text}" in assessed[1]


def test_the_terminal_and_the_chart_name_what_the_table_holds(assessed, rows):
    folder, said = assessed
    assert "abdomen, SNR 30 per volume, 14 volumes" in said and "'kidney cortex'" in said
    root = ElementTree.parse(folder / "assess.svg").getroot()
    assert root.tag.endswith("svg")
    share = 100 * float(rows[0]["bound"]) / float(rows[0]["true_value"])
    assert f"'{share:.0f} %'" in said


def test_the_same_command_gives_the_same_files(tmp_path, only_bounds):
    made = []
    for _ in range(2):
        assert main([str(tmp_path / "out"), *WORDS, "--overwrite"]) == 0
        made.append({path.name: path.read_bytes() for path in (tmp_path / "out").glob("[!.]*")})
    assert made[0] == made[1] and len(made[0]) == 3


def test_an_assessment_is_not_replaced_unasked(assessed, capsys):
    assert main([str(assessed[0]), *WORDS]) == 64
    assert "--overwrite" in capsys.readouterr().err


def test_without_a_folder_it_only_prints(tmp_path, monkeypatch, capsys, only_bounds):
    monkeypatch.chdir(tmp_path)
    assert main(WORDS) == 0
    said = capsys.readouterr().out
    assert "least-squares fit" not in said and "stomach wall" in said and "files," not in said
    assert not list(tmp_path.iterdir())


def test_repeats_and_less_noise_lower_the_bounds_as_they_must(only_bounds):
    one, four, quiet = (assess(settings(**o)) for o in ({}, {"repeats": 4, "b0_repeats": 4}, {"snr": 60.0}))
    for parameter in ("f", "d", "dstar"):
        np.testing.assert_allclose(by_tissue(four, parameter), by_tissue(one, parameter) / 2)
        np.testing.assert_allclose(by_tissue(quiet, parameter), by_tissue(one, parameter) / 2)
    assert one.gain("f") > 0 and four.bvals.size == 4 * one.bvals.size


def test_b_values_are_suggested_in_all_directions(only_bounds):
    assessment = assess(settings(directions=3, repeats=2, b0_repeats=4))
    values, counts = np.unique(assessment.suggested, return_counts=True)
    assert values[0] == 0 and not (counts[1:] % 3).any() and counts.sum() == 4 + 6 * 6
    assert assessment.typical_suggested < assessment.typical


def test_least_squares_comes_near_its_bound_where_there_is_little_noise(monkeypatch):
    """Texture and all: at so little noise the fit finds every voxel's own values."""
    monkeypatch.setattr(trial, "COMPARED", ("lsq",))
    assessment = assess(replace(settings(snr=20_000.0), shape=(40, 36, 1)))
    checked = [row for row in assessment.expectations if row.voxels >= 30]
    assert len({row.tissue for row in checked}) >= 2
    for row in checked:
        assert 0.6 < row.errors["lsq"].root_mean_square / row.bound < 1.6, row


def test_b_values_that_determine_next_to_nothing_are_not_given_a_number(only_bounds, capsys):
    words = ["--preset", "abdomen", "--assess", "--shape", "22", "20", "1"]
    assert main([*words, "--bvals", "0", "900", "950", "980", "1000"]) == 0
    assert "above 1000 %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--snr", "inf"], "needs noise"),
        (["--bvals", "0", "100", "800"], "4 or more distinct"),
        (["--bvals", "300", "400", "500", "600"], "at most 200"),
        (["--subjects", "2"], "--subjects is about a dataset"),
        (["--between-subject-variation", "0.1"], "--between-subject-variation is about a dataset"),
        (["--inherit-bval"], "--inherit-bval is about a dataset"),
        (["--snr", "-3"], "--snr must be above 0"),
    ],
)
def test_what_cannot_be_assessed_is_64_and_makes_nothing(tmp_path, words, part, capsys):
    assert main([str(tmp_path / "out"), "--preset", "abdomen", "--assess", *words]) == 64
    message = capsys.readouterr().err.strip()
    assert part in message and "\n" not in message
    assert not (tmp_path / "out").exists()


def test_a_dataset_needs_its_folder(capsys):
    assert main(["--preset", "abdomen"]) == 64
    assert "OUT_BIDS" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_folder_is_73(tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert main([str(tmp_path / "out"), *WORDS]) == 73
    assert "is a file" in capsys.readouterr().err
