"""A preprocessing step is a module and a row of the table of steps: the rest of the app knows of it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from app_runs import App, dataset
from scipy.ndimage import gaussian_filter

from sicnn_app.cli.arguments import build_parser
from sicnn_app.preprocess.corrected import Corrected, not_done
from sicnn_app.steps import STEPS, Option, Step

REFERENCE = "Nobody A. Smooth pictures of everything. Journal of Examples 2026;1:2."


def wanted(settings, situation) -> tuple[str, str]:
    width = settings.option("smoothing")
    return ("gaussian", f"--smoothing {width:g}") if width else ("none", "--smoothing was not given")


def correct(series, *, settings, situation, progress=None) -> Corrected:
    kind, reason = wanted(settings, situation)
    if kind == "none":
        return not_done("Smoothing", series, reason)
    width = settings.option("smoothing") / np.linalg.norm(series.affine[:3, :3], axis=0)
    signals = gaussian_filter(np.asarray(series.signals), [*width[:2], 0, 0])
    record = {"Name": "Smoothing", "Description": "Gaussian filter in the plane", "Width": reason}
    return Corrected(replace(series, signals=signals), record).because(reason)


@pytest.fixture
def smoothing(monkeypatch: pytest.MonkeyPatch) -> str:
    """One more step, in one module and one row; gives its label."""
    module = ModuleType("smoothing_of_images")
    module.correct = correct
    monkeypatch.setitem(sys.modules, "smoothing_of_images", module)
    row = Step(
        name="Smoothing",
        module="smoothing_of_images",
        options={"smoothing": Option(0.0, "width, mm (default: {default:g})", metavar="MM")},
        wanted=wanted,
        look_for="Only a blur that nobody needs.",
        references={"gaussian filter": REFERENCE},
        lowers_noise=True,
    )
    monkeypatch.setitem(STEPS, "smoothing", row)
    return "smoothing"


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_a_preprocessing_step_is_a_module_and_a_row(smoothing, capsys, tmp_path):
    app = App(capsys)
    made, out = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "out"
    assert "--smoothing MM" in build_parser().format_help()
    config = tmp_path / "config.toml"
    config.write_text("smoothing = 4.0\n", encoding="utf-8")
    only = ("--participant-label", "01")
    assert app.quick(made, out, *only, "--config-file", config).code == 0

    # Another value is another fingerprint, the same one is not.
    assert app.quick(made, out, *only, "--smoothing", "5").code == 64
    assert "skipped, finished before" in app.quick(made, out, *only, "--smoothing", "4").text
    assert app.quick(made, out, "--participant-label", "02").code == 0

    def record(name: str) -> dict:
        sidecar = json.loads(text_of(next(out.rglob(f"{name}*_param-f_dwimap.json"))))
        (found,) = [
            s for s in sidecar["Model"]["Parameters"]["PreprocessingSteps"] if s["Name"] == "Smoothing"
        ]
        return found

    assert record("sub-01")["Choice"] == "--smoothing 4"
    assert record("sub-02")["Description"] == "Not done: --smoothing was not given"
    qc = json.loads(text_of(next(out.rglob("sub-01*_desc-ivim_qc.json"))))
    assert qc["Settings"]["smoothing"] == 4
    (picture,) = [entry for entry in qc["StepPictures"] if entry["Step"] == "Smoothing"]
    assert picture["RootMeanSquareDifference"][0] > 0
    assert list(out.rglob("sub-01*_desc-stepsmoothing_dwi.png"))

    smoothed, plain = text_of(out / "sub-01.html"), text_of(out / "sub-02.html")
    assert "Only a blur that nobody needs." in smoothed and "Only a blur" not in plain
    assert "Smoothing: Gaussian filter in the plane" in smoothed
    assert REFERENCE in smoothed and REFERENCE not in plain

    assert app.raw(made.root, out, "group").code == 0
    assert "smoothing: 0 (1 run), 4 (1 run)" in text_of(out / "group.html")
