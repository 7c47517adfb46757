"""What pages and tables show as measured are the signals that were fitted, or they say that they are not."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from app_runs import leave_out_figures
from voxel_pages import array_index, content, fits_of_the_page, needs_node, run_with_lost_signals, unpack

from sicnn_app.cli.main import main
from sicnn_app.derivatives.collect import RunDerivatives, collect_run

PAGE = "sub-01/figures/sub-01_desc-voxels_dwi.html"


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        leave_out_figures(patch)
        return run_with_lost_signals(tmp_path_factory.mktemp("fitted"))


@pytest.fixture
def older(out, tmp_path) -> Path:
    """The same output as a version before 0.11 left it."""
    shutil.copytree(out, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*_desc-averaged_dwi.*"):
        path.unlink()
    return tmp_path / "out"


def image(out: Path, ending: str) -> np.ndarray:
    return np.asarray(nib.load(out / f"sub-01/dwi/sub-01_{ending}.nii.gz").dataobj)


def means(out: Path) -> np.ndarray:
    """Arithmetic means of the preprocessed volumes of every b-value."""
    bvals = np.loadtxt(out / "sub-01/dwi/sub-01_desc-preproc_dwi.bval")
    series = image(out, "desc-preproc_dwi")
    return np.stack([series[..., bvals == b].mean(axis=-1) for b in np.unique(bvals)], axis=-1)


def collected(out: Path) -> RunDerivatives:
    return collect_run(out, "01", None, "sub-01")


def shown(out: Path) -> tuple[dict, tuple[np.ndarray, ...], np.ndarray]:
    """Content of the page, the places of its voxels in the files and their signals, shape (M, B)."""
    run = content((out / PAGE).read_bytes())
    places, _, numbers = unpack(run)
    index = tuple(np.array([array_index(run, place) for place in places]).T)
    signals = [numbers[f"signal_{position}"] for position in range(len(run["signals"]["bvals"]))]
    return run, index, np.stack(signals, axis=-1)


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_points_are_the_averages_that_were_fitted(out):
    fitted, arithmetic = image(out, "desc-averaged_dwi"), means(out)
    run, index, signals = shown(out)
    np.testing.assert_allclose(signals, fitted[index], rtol=5e-4)
    assert run["signals"]["bvals"] == np.unique(run["signals"]["bvals"]).tolist()
    assert set(run["signals"]["volumes"]) == {4}
    # Where volumes lost signal the arithmetic means lie far below.
    assert (arithmetic[index] / fitted[index]).min() < 0.9
    by_bvalue = [
        float(row["mean_signal"]) for row in table(out / "sub-01/figures/sub-01_desc-signals_dwi.tsv")
    ]
    np.testing.assert_allclose(by_bvalue, fitted[index].mean(axis=0), rtol=1e-5)
    assert "that the maps were fitted to" in (out / PAGE).read_text()


@needs_node
def test_the_fit_of_a_region_on_the_page_is_that_of_the_report(out):
    run, index, signals = shown(out)
    codes, settings = image(out, "desc-regions_dseg")[index], run["signals"]
    rows = table(out / "sub-01/dwi/sub-01_desc-regions_qc.tsv")
    named = [(code, row) for code, row in enumerate(rows, start=1) if (codes == code).any()]
    assert len(named) > 5

    def fitted(of_voxels: np.ndarray) -> list[float]:
        cases = [
            (settings["bvals"], of_voxels[codes == code].mean(axis=0), settings["sigma"], settings["volumes"])
            for code, _ in named
        ]
        return [fit["f"] for fit in fits_of_the_page(cases, settings["bounds"])]

    reported = [float(row["mean_signal_f"]) for _, row in named]
    np.testing.assert_allclose(fitted(signals), reported, atol=2e-3)
    # Of the arithmetic means it would not be.
    assert np.abs(np.subtract(fitted(means(out)[index]), reported)).max() > 0.02


def test_outputs_of_older_versions_show_arithmetic_means_and_say_so(older, monkeypatch):
    leave_out_figures(monkeypatch)
    assert main([str(older), str(older), "participant", "--reports-only"]) == 0
    _, index, signals = shown(older)
    np.testing.assert_allclose(signals, means(older)[index], rtol=1e-3)
    page = (older / PAGE).read_text()
    assert "not the averages that were fitted" in page and "before 0.11" in page
    described = json.loads((older / "sub-01/figures/sub-01_desc-signals_dwi.json").read_text())
    assert "arithmetic means" in described["mean_signal"]["Description"]


def test_images_come_from_the_series_and_without_it_from_the_averages(out, older):
    run = collected(out)
    np.testing.assert_allclose(run.measured.baseline, means(out)[..., 0], rtol=1e-5)
    for path in out.glob("sub-01/dwi/*_desc-averaged_dwi.*"):
        shutil.copy(path, older / "sub-01/dwi")
    for path in older.glob("sub-01/dwi/*_desc-preproc_dwi.*"):
        path.unlink()
    alone = collected(older)
    assert alone.measured.fitted and alone.problems == []
    np.testing.assert_array_equal(alone.measured.in_mask, run.measured.in_mask)
    np.testing.assert_array_equal(alone.measured.volumes, run.measured.volumes)
    np.testing.assert_array_equal(alone.measured.baseline, image(out, "desc-averaged_dwi")[..., 0])


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda stem: Path(f"{stem}.nii.gz").write_bytes(b"no image"), "cannot be read"),
        (lambda stem: Path(f"{stem}.bval").write_text("0 1 2\n"), "does not fit its b-values"),
        (
            lambda stem: Path(f"{stem}.bval").write_text(" ".join(map(str, range(0, 120, 10)))),
            "other b-values",
        ),
    ],
    ids=["broken", "too few b-values", "other b-values"],
)
def test_averages_that_cannot_be_used_are_named_and_the_means_shown(out, older, spoil, problem):
    for path in out.glob("sub-01/dwi/*_desc-averaged_dwi.*"):
        shutil.copy(path, older / "sub-01/dwi")
    spoil(older / "sub-01/dwi/sub-01_desc-averaged_dwi")
    run = collected(older)
    assert not run.measured.fitted and any(problem in text for text in run.problems)
    np.testing.assert_allclose(run.measured.in_mask.T, means(older)[run.mask], rtol=1e-5)
