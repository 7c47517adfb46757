"""Where slices lie: what the metadata state counts before any guess."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from bids_datasets import Dataset
from scipy import ndimage

from sicnn_app.bids.load import load_run
from sicnn_app.ivim.run import DwiRun, SourceImage
from sicnn_app.ivim.series import DwiSeries
from sicnn_app.preprocess import motion, unring
from sicnn_app.preprocess.correction import NotPossible
from sicnn_app.preprocess.steps import prepare
from sicnn_app.settings import PreprocessingSettings

BVALS = np.array([0.0, 0, 20, 100, 400, 800])
MOVED = 2


def volumes(shape: tuple[int, int, int]) -> np.ndarray:
    """A structured object in air, slices along the last axis; one volume moved by 1.5 voxels within them."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in shape[:2]), indexing="ij"))
    tissue = 1000.0 * ((grid**2).sum(axis=0) < 0.6)[..., None] * np.ones(shape)
    tissue *= ndimage.gaussian_filter(rng.uniform(0, 2, shape), (2, 2, 0))
    signals = tissue[..., None] * np.exp(-0.001 * BVALS)
    signals[..., MOVED] = ndimage.shift(signals[..., MOVED], (1.5, -1.5, 0), order=1)
    return np.hypot(signals + rng.normal(0, 10, signals.shape), 10).astype(np.float32)


FEW, MANY = (24, 20, 3), (20, 16, 18)


def turned(across: int | None, axis: int, shape: tuple[int, int, int] = FEW) -> DwiSeries:
    """The volumes with their slices along ``axis``, stated as ``across``."""
    signals = np.swapaxes(volumes(shape), 2, axis)
    return DwiSeries(signals, BVALS, None, np.diag([2.0, 2, 2, 1]), slice_axis=across)


def unringed(series: DwiSeries) -> np.ndarray:
    return unring.correct(series).series.signals


def moved_back(series: DwiSeries) -> np.ndarray:
    per_slice = PreprocessingSettings(per_slice=True)
    return motion.correct(series, kind="rigid", settings=per_slice).series.signals


@pytest.mark.parametrize(("correct", "shape"), [(unringed, MANY), (moved_back, FEW)])
@pytest.mark.parametrize("axis", [0, 1])
def test_slices_are_corrected_wherever_the_metadata_say_they_lie(correct, shape, axis):
    straight, elsewhere = correct(turned(2, 2, shape)), correct(turned(axis, axis, shape))
    np.testing.assert_allclose(np.swapaxes(elsewhere, 2, axis), straight, atol=0.01)
    assert np.nanmax(np.abs(straight - volumes(shape))) > 10


def test_rows_of_motion_are_along_the_axes_of_the_world_wherever_slices_lie():
    quick = PreprocessingSettings(per_slice=True)
    straight, elsewhere = (
        motion.correct(turned(axis, axis), kind="rigid", settings=quick).motion[MOVED] for axis in (2, 0)
    )
    assert abs(straight["trans_x"]) > 2.0
    assert abs(straight["trans_z"]) < 1e-9
    assert elsewhere["trans_z"] == pytest.approx(straight["trans_x"])
    assert elsewhere["trans_x"] == pytest.approx(straight["trans_z"])


@pytest.mark.parametrize("correct", [unringed, moved_back])
def test_slices_that_are_stated_to_be_narrow_are_left_alone(correct):
    series = DwiSeries(np.ones((40, 5, 24, 6), np.float32), BVALS, None, np.eye(4), slice_axis=2)
    with pytest.raises(NotPossible, match="40 x 5 voxels"):
        correct(series)


@pytest.mark.parametrize("options", [{"unring": True}, {"per_slice": True}])
@pytest.mark.parametrize(("axis", "stated", "said"), [(0, None, True), (0, 0, False), (2, None, False)])
def test_a_guess_is_said_where_it_matters(options, axis, stated, said):
    done = prepare(
        turned(stated, axis), anatomy="body", settings=PreprocessingSettings(denoise="none", **options)
    )
    assert any("no metadata state how the slices lie: axis i" in text for text in done.warnings) is said
    (record,) = [step for step in done.steps if "SliceAxis" in step]
    assert record["SliceAxis"] == axis
    assert ("guessed" in record["SliceAxisSource"]) is (stated is None)


def test_nothing_is_said_where_slices_do_not_matter():
    done = prepare(turned(None, 0), anatomy="body", settings=PreprocessingSettings(denoise="none"))
    assert not any("slices lie" in text for text in done.warnings)


@pytest.mark.parametrize(
    ("metadata", "dim_info", "axis", "contradiction"),
    [
        ({"SliceEncodingDirection": "k"}, (0, 1, 2), 2, False),
        ({"SliceEncodingDirection": "i-"}, None, 0, False),
        ({"SliceEncodingDirection": "j"}, (0, 1, 2), 1, True),
        ({}, (2, 0, 1), 1, False),
        ({}, (None, None, 0), 0, False),
        ({}, (1, 0, 1), None, False),
        ({}, None, None, False),
        ({"SliceEncodingDirection": "z"}, None, None, False),
        ({"SliceEncodingDirection": ["k"]}, (0, 1, 2), 2, False),
    ],
)
def test_the_sidecar_counts_before_the_header(tmp_path, metadata, dim_info, axis, contradiction):
    made = Dataset(tmp_path)
    path = made.image("sub-01/dwi/sub-01_dwi")
    image = nib.load(path)
    if dim_info is not None:
        image.header.set_dim_info(*dim_info)
    image = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
    nib.save(image, path)
    source = SourceImage(path, path.with_name("sub-01_dwi.bval"), None, metadata=metadata)
    loaded = load_run(DwiRun({"sub": "01"}, (source,)), bvals_file=None)
    assert loaded.series.slice_axis == axis
    assert any("the sidecar counts" in text for text in loaded.warnings) is contradiction
