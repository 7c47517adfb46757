"""Which series a run belongs to, and its voxels on the grid of that series; no DICOM library is needed."""

from __future__ import annotations

import numpy as np
import pytest
from dicom_series import LPS, oblique
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.cli.dicom import main
from sicnn_app.dicom.match import is_person, on_grid
from sicnn_app.dicom.series import SourceSeries

turns = st.tuples(*[st.floats(-180, 180)] * 3)
sizes = st.tuples(*[st.floats(0.5, 8)] * 3)
places = st.tuples(*[st.floats(-300, 300)] * 3)
shapes = st.tuples(*[st.integers(2, 5)] * 3)


@settings(max_examples=50, deadline=None)
@given(turns, sizes, places, shapes, st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
def test_any_turn_and_flip_of_a_grid_is_undone(angles, zooms, origin, shape, order, flips):
    affine, values = oblique(angles, zooms, origin), np.arange(np.prod(shape)).reshape(shape)
    # From voxels of the series to those of the image.
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for axis, (target, flipped) in enumerate(zip(order, flips, strict=True)):
        turn[target, axis] = -1 if flipped else 1
        turn[target, 3] = shape[target] - 1 if flipped else 0
    there = tuple(shape[target] for target in order)
    series = SourceSeries([], LPS @ affine @ turn, there, np.array([]))
    found = on_grid(values, affine, series)
    for index in np.ndindex(there):
        x, y, z, _ = np.rint(turn @ [*index, 1]).astype(int)
        assert found[index] == values[x, y, z]


@pytest.mark.parametrize("shift", [(0.3, 0, 0), (0, 0, 1), (0, -2, 0)])
def test_a_grid_that_is_shifted_is_another(shift):
    moved = np.eye(4)
    moved[:3, 3] = shift
    assert on_grid(np.zeros((4, 4, 4)), np.eye(4), SourceSeries([], LPS @ moved, (4, 4, 4), [])) is None


@pytest.mark.parametrize(
    ("patient", "subject", "same"),
    [("01", "01", True), ("Sub-01", "01", True), ("1", "01", False), ("", "01", False),
     ("A_b^9", "ab9", True), ("011", "01", False), ("sub01", "sub01", True)],
)  # fmt: skip
def test_a_patient_is_the_participant_of_the_same_label(patient, subject, same):
    assert is_person(patient, subject) is same


def test_without_the_library_it_is_told_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    assert main([str(tmp_path), "--source", str(tmp_path)]) == 64
    assert "pip install 'sicnn-app[dicom]'" in capsys.readouterr().err
