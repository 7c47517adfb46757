"""The tables beside the report's figures: the numbers of the page, to compute with."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from app_runs import leave_out_figures
from factories import BVALS, make_result

from sicnn_app.derivatives.write import write_run
from sicnn_app.ivim.flags import left_out
from sicnn_app.report.html import build_report

DWI = Path("sub-01") / "dwi"
FIGURES = Path("sub-01") / "figures"


@pytest.fixture
def out(tmp_path, monkeypatch):
    leave_out_figures(monkeypatch)
    result = make_result(tmp_path, ensemble=True, comparison=True)
    write_run(result, tmp_path / "out", bids_dir=tmp_path / "bids", dataset_links={})
    build_report(tmp_path / "out", "01", None)
    return tmp_path / "out"


def table(out: Path, desc: str) -> list[dict[str, str]]:
    with (out / FIGURES / f"sub-01_desc-{desc}_dwi.tsv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def image(out: Path, ending: str) -> np.ndarray:
    return nib.load(out / DWI / f"sub-01_{ending}.nii.gz").get_fdata()


def test_the_statistics_are_those_of_the_maps(out):
    rows = {row["map"]: row for row in table(out, "statistics")}
    differences = {name: rows.pop(name) for name in list(rows) if name.endswith("_minus_lsq")}
    assert list(rows) == ["f", "f_std", "d", "d_std", "dstar", "dstar_std", "s0", "rmse"]
    assert list(differences) == ["f_minus_lsq", "d_minus_lsq", "dstar_minus_lsq"]
    difference = image(out, "model-ivim_param-d_dwimap") - image(out, "model-ivim_param-d_desc-lsq_dwimap")
    difference = difference[np.isfinite(difference)]
    assert float(differences["d_minus_lsq"]["median"]) == pytest.approx(np.median(difference), rel=1e-3)
    outside = (np.abs(difference) > 1e-3).mean()
    assert float(differences["d_minus_lsq"]["outside_colour_range"]) == pytest.approx(outside, abs=0.01)
    flags, f = image(out, "desc-ivimflags_dseg"), image(out, "model-ivim_param-f_dwimap")
    for name, row in rows.items():
        label, _, spread = name.partition("_")
        values = image(out, f"model-ivim_param-{label}_{'desc-std_' if spread else ''}dwimap")
        counted = np.isfinite(values) & ((f >= 0.02) if label == "dstar" else True)
        for prefix, where in (("", counted), ("unflagged_", counted & ~left_out(flags))):
            assert int(row[f"{prefix}voxels"]) == where.sum()
            expected = np.percentile(values[where], (25, 50, 75))
            found = [float(row[f"{prefix}{quantile}"]) for quantile in ("quartile_1", "median", "quartile_3")]
            np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_what_captions_say_of_ranges_and_spreads_is_there(out):
    rows = {row["map"]: row for row in table(out, "statistics")}
    f, spread = (image(out, f"model-ivim_param-f_{desc}dwimap") for desc in ("", "desc-std_"))
    inside = np.isfinite(f)
    assert float(rows["f"]["outside_colour_range"]) == pytest.approx((f[inside] > 0.5).mean())
    assert float(rows["f_std"]["outside_colour_range"]) == pytest.approx((spread[inside] > 0.1).mean())
    relative = np.median(spread[inside] / f[inside])
    assert float(rows["f_std"]["relative_median"]) == pytest.approx(relative, rel=1e-4)
    assert rows["f"]["relative_median"] == "n/a"


def test_the_signals_are_those_of_the_series(out):
    rows = table(out, "signals")
    assert [float(row["b_value"]) for row in rows] == list(BVALS)
    series, s0 = image(out, "desc-preproc_dwi"), image(out, "model-ivim_param-s0_dwimap")
    mask = np.isfinite(s0)
    for index, row in enumerate(rows):
        signals = series[..., 2 * index : 2 * index + 2].mean(axis=-1)[mask]
        assert int(row["volumes"]) == 2
        assert float(row["mean_signal"]) == pytest.approx(signals.mean(), rel=1e-4)
        assert float(row["signal_median"]) == pytest.approx(np.median(signals / s0[mask]), rel=1e-4)


@pytest.mark.parametrize("desc", ["statistics", "signals"])
def test_every_column_is_described(out, desc):
    described = json.loads((out / FIGURES / f"sub-01_desc-{desc}_dwi.json").read_text(encoding="utf-8"))
    assert set(table(out, desc)[0]) == set(described) - {"Description"}
