"""The supplement's figures and tables: logged numbers, verdicts on known results, and one small run."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest

from benchmarks.common import pool
from benchmarks.supplement import __main__ as supplement
from benchmarks.supplement import figure_verdicts, figures, logged, table_verdicts
from benchmarks.supplement.jobs import EDGES, AllMethods, Job, Training
from benchmarks.supplement.page import HEADINGS, TEXTS, Section, page
from benchmarks.supplement.plan import ITEMS, Plan
from sicnn_app.settings import EstimationSettings

ERRORS = ("f", "d", "dstar")


def test_logged_errors_fall_with_snr():
    assert [row.snr for row in logged.SIMULATION] == [12, 15, 25, 33, 50, 75, 100]
    for label in ERRORS:
        values = [getattr(row, label) for row in logged.SIMULATION]
        assert values == sorted(values, reverse=True)


def test_logged_time_follows_a_power_of_lambda():
    assert table_verdicts.logged_time_exponent() == pytest.approx(-0.43, abs=0.01)


def test_exponent_of_a_power_law():
    x = np.array([0.5, 0.1, 0.01])
    assert table_verdicts.exponent(x, 3.0 * x**-0.4) == pytest.approx(-0.4)


def test_every_item_has_computations_a_verdict_and_a_text():
    assert set(ITEMS) == set(supplement.VERDICTS) == set(TEXTS) == set(HEADINGS)


@pytest.mark.parametrize(
    ("q_p", "expected"),
    [
        ([3.0, 1.5, 0.9, 0.8], "falls below mean Noise by epoch 30 and stays there up to epoch 50"),
        ([3.0, 0.9, 1.5, 0.8], "falls below mean Noise by epoch 50"),
        ([0.9, 0.8, 0.7, 0.6], "appears at once"),
        ([3.0, 0.9, 0.9, 1.2], "does not hold at the end"),
    ],
)
def test_phenomenon_1(q_p, expected):
    assert expected in figure_verdicts.phenomenon_1([1, 10, 30, 50], q_p, 1.0)[0]


def groups_of(delta):
    count = len(EDGES) - 1
    noise = np.linspace(0.02, 0.3, count)
    return {
        "count": [100] * (count - 1) + [0],
        "noise": [*noise[:-1], None],
        "recon_error": [*(noise + delta)[:-1], None],
        "delta": [*delta[:-1], None],
    }


def test_phenomenon_2_leaves_empty_groups_out():
    falling = groups_of(-np.linspace(0.0, 0.2, len(EDGES) - 1))
    text = figure_verdicts.phenomenon_2("epoch 30", [falling, falling], 30)
    assert text.startswith("Phenomenon 2 appears, epoch 30")
    assert f"[{EDGES[-3]:g}, {EDGES[-2]:g})" in text
    rising = groups_of(np.linspace(0.0, 0.2, len(EDGES) - 1))
    assert "does not appear" in figure_verdicts.phenomenon_2("epoch 30", [rising], 30)


def test_verdict_on_training_signals():
    iterations = [
        {"rmse_signals": signals, "rmse_f": 0.1, "rmse_d": 2e-4, "rmse_dstar": dstar}
        for signals, dstar in ((0.16, 0.04), (0.08, 0.02), (0.06, 0.01))
    ]
    text = " ".join(figure_verdicts.figure_3(Plan(), {0: {"iterations": iterations}}))
    assert "from 0.1600 to 0.0600 over 2 data iterations" in text
    assert "the first rewriting brings 80 % of the fall" in text
    assert "D* by -75 %" in text


def test_verdict_on_lambda():
    found = {
        (value, seed): {
            "seconds": 10 * value**-0.4,
            "stop_reason": "lambda" if value > 0.01 else "max_iterations",
            "rmse_f": 0.06 if value == 0.5 else 0.05,
            "rmse_d": 1e-4,
            "rmse_dstar": 0.02 * (1.02 if value == 0.01 else 1.0),
        }
        for value in (0.5, 0.1, 0.01)
        for seed in (0, 1)
    }
    law, below, above = table_verdicts.stopping("default", found)
    assert "lambda^-0.40 (theirs: the logged minutes give lambda^-0.43)" in law
    assert "lambda ended 4 of 6 trainings" in law
    assert "F 0 % (5 %), D 0 % (12 %), D* 2 % (3 %)" in below
    assert "F 1.20 (1.66)" in above


def test_the_default_stop_is_found_in_a_training_that_went_on():
    settings = EstimationSettings()
    changes = [factor * settings.lambda_.value for factor in (10, 2, 0.5, 0)]
    assert figures.default_stop([{"change": change} for change in changes], settings) == 2


def test_loss_curves_end_where_half_of_the_seeds_have_stopped():
    epochs, values = figures.over_epochs([[(0, 1, 4.0), (0, 2, 3.0)], [(0, 1, 2.0)], [(0, 1, 1.0)]])
    assert epochs.tolist() == [1]
    assert values[:, 0].tolist() == [4.0, 2.0, 1.0]


def test_what_decides_a_result_is_in_its_key():
    plan = Plan(seeds=(0,))
    one = Training(plan.scenario(15, 0), EstimationSettings())
    others = [
        Training(plan.scenario(16, 0), EstimationSettings()),
        Training(plan.scenario(15, 1), EstimationSettings()),
        Training(plan.scenario(15, 0), EstimationSettings(delta=0.5)),
        AllMethods(plan.scenario(15, 0), EstimationSettings()),
    ]
    assert all(other.spec() != one.spec() for other in others)


def test_the_same_computation_is_asked_for_once(tmp_path):
    computed = []

    class Counted(Job):
        snr, seed = 1.0, 0

        def compute(self):
            computed.append(1)
            return {"value": 1}

    job = Counted()
    cells = pool.Cells(tmp_path / "cells.jsonl")
    for _ in range(2):
        assert pool.computed([job, job], cells, workers=1) == {job: {"value": 1}}
    assert len(computed) == 1


def test_page_links_pictures_beside_it(tmp_path):
    picture = tmp_path / "docs" / "supplement" / "figure-1.png"
    section = Section("figure-1", ["It appears."], "made by hand", picture=picture)
    text = page([section], 2, tmp_path / "docs" / "supplement.md")
    assert "](supplement/figure-1.png)" in text
    assert "2 optimiser steps" in text
    assert "{" not in text


def test_quick_run_is_resumed_and_says_what_made_it(tmp_path, capsys):
    argv = ["--figure", "1", "--figure", "2", "--table", "limit", "--quick", "--workers", "1"]
    argv += ["--shape", "16", "14", "1", "--out", str(tmp_path), "--page", str(tmp_path / "page.md")]
    supplement.main(argv)
    cells = (tmp_path / "cells.jsonl").read_text()
    supplement.main(argv)
    assert (tmp_path / "cells.jsonl").read_text() == cells
    assert "3 computations, 3 of them done before" in capsys.readouterr().err
    command = "python -m benchmarks.supplement --figure 1 --figure 2 --table limit --quick"
    for name in (
        "figure-1.svg",
        "figure-2.svg",
        "table-limit.csv",
        "table-limit.md",
        "verdicts.md",
        "page.md",
    ):
        assert command in (tmp_path / name).read_text(), name
    assert (tmp_path / "page" / "figure-1.png").read_bytes().startswith(b"\x89PNG")
    lines = (tmp_path / "table-limit.csv").read_text().splitlines()
    rows = list(csv.DictReader(lines[1:]))
    assert [row["max_iterations"] for row in rows] == ["0", "2"]
    assert all(math.isfinite(float(row["RMSE F"])) for row in rows)


def test_the_true_experiment_is_left_out_without_data(tmp_path, capsys):
    argv = ["--table", "true", "--quick", "--out", str(tmp_path), "--data", str(tmp_path / "nowhere")]
    supplement.main(argv)
    assert "--table true is left out" in capsys.readouterr().err
    assert not (tmp_path / "table-true.md").exists()
