"""The lines at the top of a report: sentences from tables of made-up runs, and from written ones."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from factories import make_result
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.derivatives.collect import collect_run
from sicnn_app.derivatives.write import write_run
from sicnn_app.report.answers.between_runs import differences
from sicnn_app.report.answers.dstar import judge_dstar, trust_in_dstar
from sicnn_app.report.answers.inputs import LEAST_VOXELS, RunAnswers, Tissue
from sicnn_app.report.answers.lines import answer
from sicnn_app.report.answers.perfusion import best_run
from sicnn_app.report.clusters import find_clusters
from sicnn_app.report.html import build_report
from sicnn_app.report.subject import answers_of


def tissue(name: str = "liver", f: float = 0.3, d: float = 0.001, dstar: float = 0.06, **others) -> Tissue:
    """A well known tissue of 400 voxels, a tenth of its medians wide."""
    medians = {"f": f, "d": d, "dstar": dstar}
    tenth = {label: 0.1 * value for label, value in medians.items()}
    known = {"iqr": tenth, "deviations": tenth, "of_voxel": tenth, "bounds": tenth, "voxels": 400}
    return Tissue(name, medians=medians, **{**known, **others})


def run(title: str = "run-1", *tissues: Tissue, **others) -> RunAnswers:
    return RunAnswers(title, "good", "Good.", tissues=tissues, named=True, anatomy="body", **others)


def said(*runs: RunAnswers) -> dict[str, str]:
    return {line.head: " ".join(line.sentences) for line in answer(runs)}


def test_five_lines_answer_and_without_runs_there_are_none():
    heads = ["Verdict", "Perfusion", "D*", "Between the runs", "What to do"]
    assert [line.head for line in answer([run()])] == heads
    assert answer([]) == []


def test_the_organ_with_most_blood_is_named_with_its_numbers():
    words = said(run("run-1", tissue("muscle", 0.1), tissue("kidney", 0.4, dstar=0.02), tissue("liver", 0.3)))
    assert words["Perfusion"].startswith(
        "Kidney holds most blood. Kidney F 40.0 ± 4.0 %, D 1.00 ± 0.10, D* 20.0 ± 2.0; liver F 30.0 ± 3.0 %"
    )
    assert "muscle F 10.0" in words["Perfusion"]
    twice = said(*(run(title, tissue("kidney", 0.4), tissue("liver", 0.3)) for title in ("T70", "T100")))
    assert "In T70: kidney F 40.0" in twice["Perfusion"]


def test_organs_that_are_alike_are_not_put_in_an_order():
    small = {"voxels": 12, "iqr": {"f": 0.1}}
    words = said(run("run-1", tissue("liver", 0.30, **small), tissue("spleen", 0.29, **small)))
    assert "Liver and spleen hold most blood, and are not told apart by F" in words["Perfusion"]


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"voxels": 0}, "outside the mask"),
        ({"voxels": LEAST_VOXELS - 1}, "only 9 voxels"),
        ({"flagged": 0.7}, "70 % of its voxels flagged"),
    ],
)
def test_what_cannot_be_read_is_named_and_never_first(odd, reason):
    words = said(run("run-1", tissue("gland", 0.9, **odd), tissue("liver", 0.3)))["Perfusion"]
    assert f"Not to be read: gland ({reason})." in words
    assert words.startswith("There is one tissue to read, liver. Liver F 30.0")


def test_fluid_and_vessels_are_warned_of():
    words = said(run("run-1", tissue("cyst", 0.5, d=0.0029), tissue("liver", 0.3), fluid=0.08, vessels=0.1))
    assert words["Perfusion"].startswith("Liver holds most blood")
    assert "cyst F 50.0 ± 5.0 %, D 2.90 ± 0.29, D* 60.0 ± 6.0 (a D as fluid)" in words["Perfusion"]
    assert "8 % of the voxels have a D above 2.5" in words["Perfusion"]
    assert "10 % have an F above 40 % with D* at its upper limit" in words["Perfusion"]
    assert "Leave fluid and vessels out" in words["What to do"]


@pytest.mark.parametrize(
    ("changed", "level", "reason"),
    [
        ({}, "good", "known to ± 10 %"),
        ({"of_voxel": {"dstar": 0.03}}, "doubtful", "± 50 %"),
        ({"of_voxel": {"dstar": 0.03}, "voxels": 12}, "poor", "too much for a median over 12 voxels"),
        ({"of_voxel": {}, "bounds": {"dstar": 0.3}}, "doubtful", "± 500 %"),
        ({"bounds": {"dstar": 0.12}}, "doubtful", "by its own signals alone to ± 200 %"),
        ({"at_bound": 0.3}, "poor", "30 % of its voxels stopped"),
        ({"dstar": 0.2}, "poor", "stopped at 200"),
        ({"dstar": 0.0052}, "poor", "stopped at 5,"),
        ({"f": 0.01}, "poor", "too little blood"),
        ({"of_voxel": {}, "bounds": {}}, "doubtful", "noise is not known"),
    ],
)
def test_dstar_is_believed_as_far_as_the_noise_and_the_limits_allow(changed, level, reason):
    found, words = trust_in_dstar(tissue(**{"voxels": 4000, **changed}))
    assert found == level and reason in words


def test_runs_that_agree_are_said_to_and_what_was_not_the_same_is_told():
    first = run("run-1", tissue(f=0.30), conditions={"echo time": "60 ms", "method": "SI-CNN"})
    second = run("run-2", tissue(f=0.32), conditions={"echo time": "80 ms", "method": "SI-CNN"})
    words = said(first, second)["Between the runs"]
    assert words.startswith("Their medians agree")
    assert "Not the same: echo time 60 ms in run-1, 80 ms in run-2." in words and "method" not in words


def test_runs_that_contradict_each_other_are_named_with_both_numbers():
    first, second = (
        run("run-1", tissue(), tissue("kidney", 0.16)),
        run("run-2", tissue(), tissue("kidney", 0.58)),
    )
    (found,) = differences([first, second])
    assert (found.tissue, found.label) == ("kidney", "f")
    words = said(first, second)
    assert "kidney F 16.0 ± 1.6 % in run-1, 58.0 ± 5.8 % in run-2" in words["Between the runs"]
    assert "liver" not in words["Between the runs"]
    assert "kidney must not be averaged" in words["What to do"]


def test_a_dstar_of_which_runs_contradict_each_other_is_not_believed():
    runs = [run("run-1", tissue(dstar=0.02)), run("run-2", tissue(dstar=0.15))]
    assert judge_dstar(runs, differences(runs)) == {"liver": ("poor", "the runs contradict each other")}


def test_what_is_near_0_in_both_runs_does_not_contradict():
    assert not differences([run("1", tissue(f=0.002, d=0.12e-3)), run("2", tissue(f=0.013, d=0.18e-3))])


def test_more_blood_than_tissue_holds_is_never_the_answer():
    words = said(run("run-1", tissue("intestine", 0.65), tissue("liver", 0.3)))["Perfusion"]
    assert words.startswith("Liver holds most blood.")
    assert "intestine F 65.0 ± 6.5 %" in words and "vessels, motion or noise" in words


def test_noise_excuses_what_certainty_does_not():
    unsure = {"iqr": {"f": 0.6, "d": 0.0, "dstar": 0.0}, "voxels": 20}
    assert differences([run("1", tissue(f=0.2)), run("2", tissue(f=0.45))])
    assert not differences([run("1", tissue(f=0.2, **unsure)), run("2", tissue(f=0.45, **unsure))])


def test_volumes_that_lost_signal_are_named_and_to_be_looked_at():
    words = said(run("T70", tissue(), lost=("volume 45 (74 % of spleen)",)), run("T100", tissue()))
    assert "T70: volume 45 (74 % of spleen)" in words["Between the runs"]
    assert "--ignore-volumes" in words["What to do"]


def test_a_mask_that_leaves_a_region_out_is_to_be_replaced():
    words = said(run("run-1", tissue("kidney", inside=0.1), tissue("liver")))
    assert "Give a mask that holds kidney" in words["What to do"]


def test_without_regions_nothing_is_called_an_organ():
    cluster = tissue("cluster 1", cluster=True)
    words = said(RunAnswers("run-1", tissues=(cluster,), whole=tissue("the mask")))
    assert words["Perfusion"].startswith("There is one tissue to read, cluster 1.")
    assert "No segmentation was given" in words["Perfusion"]
    assert "± is the standard deviation of one voxel." in words["Perfusion"]
    assert "-d" in words["What to do"]


def test_the_run_with_the_better_verdict_is_read():
    poor = dataclasses.replace(run("run-1"), verdict="poor")
    assert best_run([poor, run("run-2")]).title == "run-2"


def test_a_run_without_faults_needs_no_steps():
    assert said(run("run-1", tissue()))["What to do"].startswith("Nothing stands against")


NUMBERS = st.floats(0, 1e30, allow_nan=False) | st.floats(0, 1)
LABELLED = st.dictionaries(st.sampled_from(["f", "d", "dstar"]), NUMBERS)
TISSUES = st.builds(
    Tissue,
    name=st.sampled_from(["liver", "kidney", ""]),
    voxels=st.integers(0, 10**7),
    medians=LABELLED,
    iqr=LABELLED,
    deviations=LABELLED,
    of_voxel=LABELLED,
    bounds=LABELLED,
    at_bound=st.floats(0, 1),
    flagged=st.floats(0, 1),
    inside=st.floats(0, 1),
    cluster=st.booleans(),
)
RUNS = st.builds(
    RunAnswers,
    title=st.sampled_from(["run-1", "run-2", "run-3"]),
    verdict=st.sampled_from(["good", "doubtful", "poor", "unknown"]),
    tissues=st.lists(TISSUES, max_size=4).map(tuple),
    named=st.booleans(),
    whole=st.none() | TISSUES,
    conditions=st.dictionaries(st.sampled_from(["b-values", "method"]), st.sampled_from(["a", "b"])),
    anatomy=st.sampled_from(["brain", "body", None]),
    fluid=st.floats(0, 1),
    vessels=st.floats(0, 1),
)


@settings(max_examples=150)
@given(st.lists(RUNS, min_size=1, max_size=4))
def test_whatever_the_tables_hold_there_are_five_lines_of_words(runs):
    lines = answer(runs)
    assert len(lines) == 5
    for line in lines:
        assert line.sentences and all(re.search(r"[.:)]$", sentence) for sentence in line.sentences)
        assert not any(word in " ".join(line.sentences) for word in ("nan", "inf ", "None", "{"))


@given(st.floats(0.02, 0.9), st.floats(0.02, 0.9))
def test_a_difference_is_one_whichever_run_comes_first(first, second):
    runs = [run("run-1", tissue(f=first)), run("run-2", tissue(f=second))]
    sizes = [{found.label: found.size for found in differences(order)} for order in (runs, runs[::-1])]
    assert sizes[0] == pytest.approx(sizes[1])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    for number in ("1", "2"):
        result = make_result(folder, entities={"sub": "01", "run": number}, shape=(12, 10, 3), ensemble=True)
        write_run(result, folder / "out", bids_dir=folder / "bids", dataset_links={})
    return folder / "out"


def test_the_numbers_are_those_of_the_maps(written):
    found = collect_run(written, "01", None, "sub-01_run-1")
    clusters = find_clusters(found)
    facts = answers_of(found, "run-1", clusters)
    assert facts.whole.voxels == int(found.mask.sum())
    for label in ("f", "d", "dstar"):
        inside, known = found.inside(label), found.meaningful(label)
        assert facts.whole.medians[label] == pytest.approx(np.median(inside[known]))
        spread = found.spread[label][found.mask][known]
        assert facts.whole.of_voxel[label] == pytest.approx(np.median(spread))
    assert [cluster.voxels for cluster in facts.tissues] == [row["voxels"] for row in clusters.rows]
    assert facts.whole.flagged == pytest.approx(found.flagged.mean())


def test_the_page_begins_with_the_lines_and_the_verdict_recorded(written):
    page = build_report(written, "01", None).read_text(encoding="utf-8")
    recorded = json.loads((written / "sub-01/dwi/sub-01_run-1_desc-ivim_qc.json").read_text())
    answers = page[page.index('class="answers"') : page.index("</dl>")]
    assert recorded["Adequacy"]["Sentence"].split(":")[0] in answers.replace("\u00a0", " ") or (
        recorded["Adequacy"]["Sentence"] in answers
    )
    assert answers.count("<dt>") == 5
    assert page.index('class="answers"') < page.index('id="run-sub-01_run-1"')
