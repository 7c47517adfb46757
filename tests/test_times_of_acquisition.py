"""Echo and diffusion times: from the sidecar to maps, tables and pages, and told where runs differ."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from app_runs import QUICK, add_run
from bids_datasets import Dataset

from sicnn_app.bids.discover import discover
from sicnn_app.cli.main import main
from sicnn_app.settings import InputSettings, SelectionSettings

TIMES = {"EchoTime": 0.0573, "BigDelta": 0.0412, "SmallDelta": 0.0123}


def runs(root, *sidecars) -> Dataset:
    made = Dataset(root)
    for number, sidecar in enumerate(sidecars, start=1):
        name = f"sub-01_run-{number}"
        add_run(made, name)
        made.write(f"sub-01/dwi/{name}_dwi.json", json.dumps(sidecar))
    return made


def test_times_arrive_in_maps_tables_report_and_group(tmp_path):
    made, out = runs(tmp_path / "ds", TIMES, {**TIMES, "EchoTime": 0.08}), tmp_path / "out"
    assert main([str(made.root), str(out), "participant", *QUICK]) == 0
    assert main([str(made.root), str(out), "group"]) == 0
    sidecar = json.loads((out / "sub-01/dwi/sub-01_run-1_model-ivim_param-f_dwimap.json").read_text())
    assert {key: sidecar[key] for key in TIMES} == TIMES
    table = pd.read_csv(out / "group_ivim.tsv", sep="\t")
    assert table["echo_time"].tolist() == [0.0573, 0.08]
    assert table["big_delta"].tolist() == [0.0412] * 2
    assert (
        "Acquired with echo time 0.0573 s, BigDelta 0.0412 s, SmallDelta 0.0123 s"
        in (out / "sub-01.html").read_text()
    )
    page = (out / "group.html").read_text()
    assert "EchoTime differs between the runs: 0.0573 s, 0.08 s" in page
    assert "BigDelta differs" not in page


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (TIMES, {**TIMES, "BigDelta": 0.07}, ["BigDelta: 0.0412 s in sub-01_run-1, 0.07 s in sub-01_run-2"]),
        (TIMES, TIMES, []),
        (TIMES, {}, []),
        ({"EchoTime": "0.05"}, {"EchoTime": [0.06]}, []),
        ({"EchoTime": True}, {"EchoTime": 0.06}, []),
        (
            {"EchoTime": 0.05, "SmallDelta": 0.01},
            {"EchoTime": 0.06, "SmallDelta": 0.02},
            ["EchoTime", "SmallDelta"],
        ),
    ],
)
def test_runs_of_a_participant_that_differ_are_told(tmp_path, first, second, told):
    found = discover(runs(tmp_path, first, second).root, SelectionSettings(), InputSettings())
    said = [text for text in found.warnings if "differ in" in text]
    assert len(said) == len(told)
    assert all(words in text for words, text in zip(told, said, strict=True))
