"""docs/read-maps.md: what it says of NaN outside the mask, by running its lines."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from app_runs import ROOT, App, dataset, leave_out_figures
from nilearn.maskers import NiftiLabelsMasker


@pytest.fixture
def read(monkeypatch, capsys, tmp_path) -> dict:
    """Names after all lines of the page in Python were run in an output."""
    leave_out_figures(monkeypatch)
    out = tmp_path / "out"
    assert App(capsys).quick(dataset(tmp_path / "bids"), out).code == 0
    monkeypatch.chdir(out)
    names: dict = {}
    for lines in re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/read-maps.md").read_text("utf-8"), re.DOTALL
    ):
        exec(lines, names)
    return names


@pytest.mark.filterwarnings("ignore")
def test_the_lines_of_the_page_give_the_numbers_of_the_voxels(read):
    values, inside = read["values"], read["mask"].get_fdata() > 0
    assert np.array_equal(np.isfinite(values), inside) and not inside.all()
    assert read["median"] == np.median(values[inside])
    np.testing.assert_allclose(np.sort(read["in_mask"].ravel()), np.sort(values[inside]), rtol=1e-6)
    assert np.isfinite(read["trusted"]).all()
    (found,) = read["found"]
    assert Path(found).name == "sub-01_model-ivim_param-f_dwimap.nii.gz"
    # A weighted mean of finite values lies between them, up to the border.
    smoothed = read["smoothed"][inside]
    assert values[inside].min() <= smoothed.min() and smoothed.max() <= values[inside].max()


@pytest.mark.filterwarnings("ignore")
def test_means_of_regions_are_too_low_without_the_mask_and_right_with_it(read):
    f, mask = read["f"], read["mask"]
    labels = nib.Nifti1Image(np.ones(f.shape, np.int16), f.affine)
    mean = np.nanmean(read["values"])
    right = NiftiLabelsMasker(labels, mask_img=mask).fit_transform(f).item()
    wrong = NiftiLabelsMasker(labels).fit_transform(f).item()
    assert right == pytest.approx(mean, rel=1e-5) and wrong < 0.9 * mean
