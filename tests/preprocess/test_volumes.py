"""Selection of volumes by b-value, and what the user is told about it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sicnn_app.errors import DataError
from sicnn_app.ivim.series import DwiSeries
from sicnn_app.preprocess.volumes import select_volumes


def series_of(bvals, source_volumes=None) -> DwiSeries:
    bvals = np.asarray(bvals, dtype=float)
    signals = np.full((2, 2, 1, bvals.size), 100.0, dtype=np.float32) + np.arange(
        bvals.size, dtype=np.float32
    )
    return DwiSeries(signals, bvals, None, np.eye(4), source_volumes)


def test_volumes_above_the_limit_are_left_out_and_named():
    series = series_of([0, 10, 100, 500, 2000, 2000, 800, 2000])
    selected, record, warnings = select_volumes(series, max_bval=1000)
    assert selected.bvals.tolist() == [0, 10, 100, 500, 800]
    assert selected.source_volumes.tolist() == [0, 1, 2, 3, 6]
    assert record["VolumesLeftOut"] == [4, 5, 7]
    assert record["BValuesLeftOut"] == [2000, 2000, 2000]
    assert len(warnings) == 1
    assert "2000" in warnings[0] and "4-5, 7" in warnings[0] and "--max-bval 1000" in warnings[0]
    json.dumps(record)


def test_scanner_jitter_at_the_limit_is_kept():
    selected, _, warnings = select_volumes(series_of([0, 10, 100, 995, 1000, 1004]), max_bval=1000)
    assert selected.bvals.size == 6 and not warnings


def test_ignored_bvals_take_the_nearest_nominal_one_only():
    selected, _, warnings = select_volumes(
        series_of([0, 5, 10, 10.4, 15, 100, 500]), max_bval=1000, ignore_bvals=(10.0,)
    )
    assert selected.bvals.tolist() == [0, 5, 15, 100, 500]
    assert "--ignore-bvals" in warnings[0]


def test_an_ignored_bval_the_series_lacks_is_told():
    selected, _, warnings = select_volumes(series_of([0, 10, 100, 500]), max_bval=1000, ignore_bvals=(50.0,))
    assert selected.bvals.size == 4
    assert warnings == ["--ignore-bvals 50: the series has no such b-value (0, 10, 100, 500)"]


@pytest.mark.parametrize("empty", [0.0, np.nan, np.inf])
def test_volumes_without_data_are_left_out(empty):
    series = series_of([0, 10, 100, 500, 500])
    signals = series.signals.copy()
    signals[..., 3] = empty
    selected, record, warnings = select_volumes(
        DwiSeries(signals, series.bvals, None, series.affine), max_bval=1000
    )
    assert selected.source_volumes.tolist() == [0, 1, 2, 4]
    assert record["VolumesLeftOut"] == [3] and "without data" in warnings[0]


def test_indices_are_those_of_the_source_image():
    series = series_of([0, 10, 100, 500, 2000], source_volumes=np.array([3, 4, 6, 8, 9]))
    _, record, warnings = select_volumes(series, max_bval=1000)
    assert record["VolumesLeftOut"] == [9] and "volumes 9 " in warnings[0]


def test_too_few_bvals_names_the_option_that_removed_them():
    with pytest.raises(
        DataError, match=r"3 distinct b-values \(0, 10, 100.*2000 s/mm\^2 above --max-bval 1000"
    ):
        select_volumes(series_of([0, 10, 100, 2000]), max_bval=1000)


def test_too_few_bvals_without_options_blames_none():
    with pytest.raises(DataError) as error:
        select_volumes(series_of([0, 10, 100, 100]), max_bval=1000)
    assert "--" not in str(error.value)


def test_no_low_bval_left_names_the_option():
    with pytest.raises(DataError, match=r"lowest b-value left is 300 .*--ignore-bvals"):
        select_volumes(series_of([0, 300, 400, 500, 600]), max_bval=1000, ignore_bvals=(0.0,))


def test_the_input_series_is_not_changed():
    series = series_of([0, 10, 100, 500, 2000])
    before = series.signals.copy()
    select_volumes(series, max_bval=1000)
    np.testing.assert_array_equal(series.signals, before)
    assert series.bvals.size == 5


@pytest.mark.parametrize(
    ("bvals", "ignored", "kept"),
    [
        ([0, 10, 100, 500, 800, 2000, 3000], (), [0, 1, 2, 3, 4]),
        ([0, 2000, 10, 2000, 100, 2000, 500, 2000], (), [0, 2, 4, 6]),
        ([0, 10, 100, 500], (), [0, 1, 2, 3]),
        ([5, 10, 100, 500, 800], (5,), [1, 2, 3, 4]),
    ],
    ids=["the first", "every other", "all", "the last"],
)
def test_evenly_spaced_volumes_are_not_copied(bvals, ignored, kept):
    series = series_of(bvals)
    selected, _, _ = select_volumes(series, max_bval=1000, ignore_bvals=ignored)
    assert np.shares_memory(selected.signals, series.signals)
    np.testing.assert_array_equal(selected.signals, series.signals[..., kept])
    assert selected.source_volumes.tolist() == kept and selected.bvals.tolist() == [bvals[k] for k in kept]


def test_directions_and_affine_follow_the_selected_volumes():
    bvals = np.array([0, 10, 100, 500, 2000.0])
    bvecs = np.arange(15.0).reshape(5, 3)
    series = DwiSeries(np.ones((2, 2, 1, 5), dtype=np.float32), bvals, bvecs, np.diag([2.0, 3, 4, 1]))
    selected, _, _ = select_volumes(series, max_bval=1000)
    np.testing.assert_array_equal(selected.bvecs, bvecs[:4])
    np.testing.assert_array_equal(selected.affine, series.affine)
