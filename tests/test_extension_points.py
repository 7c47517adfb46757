"""What the tables are worth: a test adds a row, and the rest of the app knows of it.

Nothing of the app is touched: every addition is one row, put into its table for the time of a test, and what
the row points to.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from app_runs import App, add_run, body, dataset
from bids_datasets import Dataset
from scipy.ndimage import gaussian_filter

from sicnn_app.cli import arguments
from sicnn_app.cli.arguments import build_parser
from sicnn_app.derivatives import quality
from sicnn_app.derivatives.quality import Column, Shown
from sicnn_app.ivim.maps import Estimate
from sicnn_app.ivim.parameters import MapSpec
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.methods import METHODS, Method
from sicnn_app.options import AT_LEAST_1, Option, row
from sicnn_app.preprocess.correction import Corrected
from sicnn_app.report import methods as methods_text
from sicnn_app.settings import EstimationSettings
from sicnn_app.steps import STEPS, Step

REFERENCE = "Nobody A, Noone B. Maps that are the same everywhere. Journal of Examples 2026;1:1."
ON_CPU = ("--device", "cpu", "--omp-nthreads", "1")


@pytest.fixture
def app(capsys: pytest.CaptureFixture[str]) -> App:
    return App(capsys)


def constant_estimate(signals, mask, bvals, *, settings, device="cpu", **others) -> Estimate:
    """The same F, D and D* in every voxel."""
    lowest = signals[..., 0]
    values = {"f": 0.1, "d": 0.001, "dstar": 0.02, "s0": lowest, "rmse": 0.0}
    maps = {name: np.where(mask, value, np.nan).astype(np.float32) for name, value in values.items()}
    predicted = ivim_signal_maps(bvals, *(np.nan_to_num(maps[name]) for name in ("f", "d", "dstar", "s0")))
    return Estimate(
        maps=maps,
        predicted=predicted.astype(np.float32),
        history=[{"data_iteration": 0, "training_loss": 0.0}],
        parameters={"method": settings.method, "stop_reason": "at once"},
        algorithm="The same values everywhere",
        device=device,
    )


@pytest.fixture
def constant(monkeypatch: pytest.MonkeyPatch) -> str:
    """A method of estimation in one module and one row; gives its name."""
    module = ModuleType("constant_maps")
    module.estimate = constant_estimate
    module.needed_bytes = lambda shape, n_bvals, settings: 0
    monkeypatch.setitem(sys.modules, "constant_maps", module)
    row = Method(
        title="Constant maps",
        module="constant_maps",
        sentence="F, D and D* were not estimated at all but taken to be the same everywhere.",
        references=(REFERENCE,),
        cited_as=("Nobody and Noone, Journal of Examples 2026;1:1",),
    )
    monkeypatch.setitem(METHODS, "constant", row)
    return "constant"


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_an_estimator_is_a_module_and_a_row(constant, app, tmp_path):
    made, out = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "out"
    assert f",{constant}}}" in build_parser().format_help()
    assert app(made, out, "--method", constant, *ON_CPU).code == 0

    image = nib.load(next(out.rglob("sub-01*_param-f_dwimap.nii.gz")))
    assert set(np.unique(image.get_fdata()[np.isfinite(image.get_fdata())]).round(6)) == {0.1}
    assert not list(out.rglob("*desc-lsq*")), "nothing was trained, so nothing is compared"

    sidecar = json.loads(text_of(next(out.rglob("sub-01*_param-f_dwimap.json"))))
    assert sidecar["EstimationAlgorithm"] == "The same values everywhere"
    assert sidecar["EstimationReference"][-1] == "Nobody and Noone, Journal of Examples 2026;1:1"

    (row,) = pd.read_csv(next(out.rglob("sub-01*_desc-ivim_qc.tsv")), sep="\t").to_dict("records")
    assert row["method"] == constant and row["f_median"] == pytest.approx(0.1)

    report = text_of(out / "sub-01.html")
    assert "Constant maps" in report and "taken to be the same everywhere" in report and REFERENCE in report

    # Another method is another fingerprint.
    assert app.quick(made, out).code == 64
    assert "skipped, finished before" in app(made, out, "--method", constant, *ON_CPU).text

    boilerplate = app(made, tmp_path / "words", "--method", constant, "--boilerplate-only").out
    assert "taken to be the same everywhere" in boilerplate and REFERENCE in boilerplate

    assert app.raw(made.root, out, "group").code == 0
    table = pd.read_csv(out / "group_ivim.tsv", sep="\t")
    assert set(table["method"]) == {constant}
    assert "Constant maps" in text_of(out / "group.html")


@pytest.mark.parametrize(
    "option",
    ["--ensemble 2", "--training-scope study", "--epochs 3", "--update-rule own-prediction"],
)
def test_a_method_that_trains_nothing_takes_no_options_of_training(constant, app, tmp_path, option):
    called = app(dataset(tmp_path / "bids"), tmp_path / "out", "--method", constant, *option.split())
    assert called.code == 64 and option.split()[0] in called.err and constant in called.err


@pytest.fixture
def odd_voxels(monkeypatch: pytest.MonkeyPatch) -> str:
    """A column of the quality table: one row; gives its name."""
    row = Column(
        "edge_signal",
        "Signal at the edge",
        "Mean signal at b = 0 of the first slice, a measure that nobody needs",
        lambda quality: float(quality.result.averaged.signals[:, :, 0, 0].mean()),
        unit="arbitrary",
        in_group=99,
        outlier=Shown("signal of the first slice", "Signal of the first slice", 0.01, "hundreds"),
        tile="Edge",
    )
    monkeypatch.setattr(quality, "COLUMNS", (*quality.COLUMNS, row))
    return row.name


def test_a_column_of_the_quality_table_is_a_row(odd_voxels, app, tmp_path):
    names = [f"sub-{number:02d}" for number in range(1, 10)]
    made, out = Dataset(tmp_path / "bids"), tmp_path / "out"
    for seed, name in enumerate(names):
        add_run(made, name, data=body(seed=seed) * (8.0 if name == "sub-05" else 1.0))
    assert app.quick(made, out).code == 0

    (row,) = pd.read_csv(next(out.rglob("sub-01*_desc-ivim_qc.tsv")), sep="\t").to_dict("records")
    described = json.loads(text_of(next(out.rglob("sub-01*_desc-ivim_qc.json"))))[odd_voxels]
    assert row[odd_voxels] > 0
    assert described["Description"].endswith("that nobody needs") and described["Units"] == "arbitrary"
    assert re.search(r"<dt>Edge</dt><dd>[\d.]+ hundreds</dd>", text_of(out / "sub-01.html"))

    assert app.raw(made.root, out, "group").code == 0
    table = pd.read_csv(out / "group_ivim.tsv", sep="\t").set_index("source")
    assert table.loc["sub-01", odd_voxels] == pytest.approx(row[odd_voxels])
    assert json.loads(text_of(out / "group_ivim.json"))[odd_voxels] == described
    assert f"{odd_voxels} far high" in table.loc["sub-05", "outliers"]
    page = text_of(out / "group.html")
    assert "Signal of the first slice" in page and "signal of the first slice" in page


KURTOSIS_MODEL = "with kurtosis: S(b) = nobody knows"


@pytest.fixture
def with_kurtosis(constant, monkeypatch: pytest.MonkeyPatch) -> str:
    """The method of one row with a further map; gives the name of the method."""
    spec = MapSpec(
        "kurtosis",
        "K",
        "arbitrary",
        "Kurtosis that nobody estimated",
        (0.0, 2.0),
        title="kurtosis of tissue",
        factor=100.0,
        shown_unit="%",
        outlier=True,
    )
    monkeypatch.setitem(METHODS, constant, replace(METHODS[constant], maps=(spec,), model=KURTOSIS_MODEL))

    def estimate(*args, **options):
        found = constant_estimate(*args, **options)
        return replace(found, maps={**found.maps, "kurtosis": found.maps["f"] * 7})

    monkeypatch.setattr(sys.modules["constant_maps"], "estimate", estimate)
    return constant


def test_a_map_of_a_method_is_a_row(with_kurtosis, app, tmp_path):
    made, out = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "out"
    planned = app(made, out, "--method", with_kurtosis, *ON_CPU, "--dry-run", "-v").out
    assert "sub-01_model-ivim_param-kurtosis_dwimap.nii.gz" in planned
    assert app(made, out, "--method", with_kurtosis, *ON_CPU).code == 0

    values = nib.load(next(out.rglob("sub-01*_param-kurtosis_dwimap.nii.gz"))).get_fdata()
    assert set(values[np.isfinite(values)].round(5)) == {0.7}
    sidecar = json.loads(text_of(next(out.rglob("sub-01*_param-kurtosis_dwimap.json"))))
    assert sidecar["Description"].startswith("Kurtosis that nobody") and sidecar["Units"] == "arbitrary"
    assert sidecar["Model"]["Description"] == f"Intravoxel incoherent motion (IVIM), {KURTOSIS_MODEL}"
    assert "`param-kurtosis`" in text_of(out / "README.md")

    (row,) = pd.read_csv(next(out.rglob("sub-01*_desc-ivim_qc.tsv")), sep="\t").to_dict("records")
    described = json.loads(text_of(next(out.rglob("sub-01*_desc-ivim_qc.json"))))["kurtosis_median"]
    assert row["kurtosis_median"] == pytest.approx(0.7) and "nobody" in described["Description"]

    report = text_of(out / "sub-01.html")
    assert "bi-exponential" not in report and f"incoherent motion, {KURTOSIS_MODEL}." in report
    assert "kurtosis of tissue" in report and "K (%)" in report
    assert list(out.rglob("sub-01*_desc-kurtosismap_dwi.png"))

    assert app.raw(made.root, out, "group").code == 0
    table = pd.read_csv(out / "group_ivim.tsv", sep="\t")
    assert table["kurtosis_median"].tolist() == pytest.approx([0.7, 0.7])
    assert "nobody" in json.loads(text_of(out / "group_ivim.json"))["kurtosis_median"]["Description"]
    assert "K, kurtosis of tissue" in text_of(out / "group.html")
    # Finished is finished, with its further file.
    assert "skipped, finished before" in app(made, out, "--method", with_kurtosis, *ON_CPU).text


STEP_REFERENCE = "Nobody A. Smooth pictures of everything. Journal of Examples 2026;1:2."


def wanted(settings, situation) -> tuple[str, str]:
    width = settings.option("smoothing")
    return ("gaussian", f"--smoothing {width:g}") if width else ("none", "--smoothing was not given")


def correct(series, *, kind, settings, progress=None) -> Corrected:
    width = settings.option("smoothing") / np.linalg.norm(series.affine[:3, :3], axis=0)
    signals = gaussian_filter(np.asarray(series.signals), [*width[:2], 0, 0])
    record = {"Description": "Gaussian filter in the plane", "Width": settings.option("smoothing")}
    return Corrected(replace(series, signals=signals), record)


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
        references={"gaussian filter": STEP_REFERENCE},
        lowers_noise=True,
    )
    monkeypatch.setitem(STEPS, "smoothing", row)
    return "smoothing"


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
    assert STEP_REFERENCE in smoothed and STEP_REFERENCE not in plain

    assert app.raw(made.root, out, "group").code == 0
    assert "smoothing: 0 (1 run), 4 (1 run)" in text_of(out / "group.html")


@dataclass(frozen=True)
class MoreSettings(EstimationSettings):
    """The settings of the estimation with one field more."""

    patience: int = field(
        default=3, metadata=row("epochs that nobody waits (default: {default})", AT_LEAST_1, in_text=99)
    )


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more setting, as if it stood in its class."""
    monkeypatch.setitem(arguments.GROUPS, "estimation", MoreSettings)
    for module in (arguments, methods_text):
        monkeypatch.setattr(module, "EstimationSettings", MoreSettings)


@pytest.mark.usefixtures("patience")
def test_a_setting_is_a_field_with_its_row(app, tmp_path):
    made, out = dataset(tmp_path / "bids"), tmp_path / "out"
    said = " ".join(build_parser().format_help().split())
    assert "--patience N epochs that nobody waits (default: 3)" in said
    refused = app.quick(made, out, "--patience", "0")
    assert refused.code == 64 and "--patience must be at least 1, not 0" in refused.err
    config = tmp_path / "config.toml"
    config.write_text("patience = 7\n", encoding="utf-8")
    assert app.quick(made, out, "--config-file", config).code == 0

    qc = json.loads(text_of(next(out.rglob("*_desc-ivim_qc.json"))))
    assert qc["Settings"]["patience"] == 7
    assert "patience" in text_of(out / "sub-01.html")
    # Another value is another fingerprint, the same one is not.
    assert app.quick(made, out).code == 64
    assert "skipped, finished before" in app.quick(made, out, "--patience", "7").text

    boilerplate = app(made, tmp_path / "words", "--boilerplate-only", "--patience", "7").out
    assert "random seed 0, patience 7." in " ".join(boilerplate.split())
